"""Examples of each verb, for its page. A test gives each command to the verb that it calls."""

from __future__ import annotations

from collections.abc import Mapping

# A command, and what it does.
Example = tuple[str, str]

EXAMPLES: Mapping[str, tuple[Example, ...]] = {
    "init": (
        ("orch init", "ask for the hosts, check each, and write hosts.yaml"),
        ("orch init --from hosts.txt", "read the hosts from a file that another tool uses"),
        ("orch init --add gpu4", "add a host to hosts.yaml"),
    ),
    "keys": (
        ("orch keys", "make a key if there is none, and install it on every host"),
        ("orch keys --between", "also let the hosts log in to each other"),
        ("orch keys --undo", "take back what orch keys changed"),
    ),
    "hosts": (
        ("orch hosts", "show what each key came to, and where its value is from"),
        ("orch hosts --hosts lab.yaml", "the same for another hosts file"),
    ),
    "run": (
        ("orch run train", "train a bundled workload on every host"),
        ("orch run train.py --epochs 3", "your own script, with options of its own"),
        ("orch run --nodes 'gpu[01-04]' -m pkg.train", "a module, on four hosts"),
        ("orch run --max-restarts 2 --on-hang restart gpt", "start again if a host is lost or the run hangs"),
    ),
    "plan": (
        ("orch plan train", "show the command of each node"),
        ("orch plan train --offline --nproc 4", "the same without connecting to any node"),
        ("orch plan train --format sh > commands.sh", "as a shell script"),
    ),
    "workloads": (
        ("orch workloads", "list the bundled scripts"),
        ("orch workloads copy train", "copy train.py into this folder, to change it"),
        ("orch run hello-ddp -- --help", "show the options of a script"),
    ),
    "workloads copy": (
        ("orch workloads copy train", "copy train.py, and the files that it imports, into this folder"),
        ("orch workloads copy gpt experiments", "copy to the folder experiments"),
        ("orch run train.py", "run the copy"),
    ),
    "exec": (
        ("orch exec -- nvidia-smi -L", "list the GPUs of every host; equal output is shown once"),
        ("orch exec --nodes gpu01 -- df -h /", "one host"),
        ("orch exec -- sh -c 'du -sh ~/orch-work'", "a shell of the host expands ~ and runs pipes"),
    ),
    "doctor": (
        ("orch doctor", "check every host and every pair of hosts"),
        ("orch doctor --fix", "also offer to mend what needs no root"),
        ("orch doctor --deep --html report.html", "time the links, and write a page with heat maps"),
    ),
    "sync": (
        ("orch sync", "bring the project folder to every host"),
        ("orch sync --dry-run", "list what would be sent"),
        ("orch sync --data mnist", "also send data, to $ORCH_DATA on every host"),
        ("orch sync --watch", "push on every save"),
    ),
    "ps": (
        ("orch ps", "list the active runs"),
        ("orch ps --all", "also list runs that have ended"),
    ),
    "logs": (
        ("orch logs -f", "follow the only active run"),
        ("orch logs 20261121-064804-eaed --rank 0", "the output of one rank of a run"),
        ("orch logs --node gpu01 --since 10m", "the last ten minutes on one host"),
    ),
    "stacks": (
        ("orch stacks", "what each rank of the only active run is doing now"),
        ("orch stacks --full", "with the stack of one rank of each group"),
        ("orch stacks --watch 5", "look again every five seconds"),
    ),
    "runs": (
        ("orch runs", "list the newest runs, with how they ended"),
        ("orch runs --failed --since 7d", "only those of the last week that failed"),
        ("orch runs show @last", "one run in full: command, code, timeline, cause"),
        ("orch run --again @last-failed", "repeat a run: same code, arguments and hosts"),
    ),
    "runs show": (
        ("orch runs show @last", "the newest run"),
        ("orch runs show baseline --json", "the run named baseline, as JSON"),
    ),
    "runs diff": (
        ("orch runs diff @last-ok @last-failed", "what changed between the two"),
        ("orch runs diff baseline @last --full", "with every line of code that differs"),
    ),
    "runs metrics": (
        ("orch runs metrics @last", "what the newest run measured"),
        ("orch runs metrics baseline --json", "with all values, as JSON"),
    ),
    "runs plot": (
        ("orch runs plot @last --metric loss", "draw the loss of the newest run in the terminal"),
        ("orch runs plot baseline @last -m loss --log -o loss.png", "two runs in one picture"),
        ("orch runs plot @last -m loss --x time --smooth 20", "over hours, each value the mean of 20"),
    ),
    "runs rm": (
        ("orch runs rm 20261121-064804-eaed", "remove a run from this machine"),
        ("orch runs rm --force 20261121-06", "by the beginning of its id, though nobody saw its end"),
    ),
    "runs prune": (
        ("orch runs prune --keep 20 --dry-run", "list what would go"),
        ("orch runs prune --older-than 30d", "remove runs of more than a month ago"),
    ),
    "runs tag": (
        ("orch runs tag @last paper", "prune keeps tagged runs"),
        ("orch runs tag @last paper --remove", "take the tag away"),
    ),
    "runs note": (
        ("orch runs note @last lower loss with warmup", "add a note"),
        ("orch runs note @last", "print the notes of the newest run"),
    ),
    "dashboard": (
        ("orch dashboard", "print the address of the page, and serve it until Ctrl-C"),
        ("orch dashboard --port 0 --open", "on any free port, and open it here"),
    ),
    "attach": (
        ("orch attach", "take over the only active run"),
        ("orch attach 20261121-064804-eaed", "take over a run by its id; orch ps lists the ids"),
    ),
    "stop": (
        ("orch stop 20261121-064804-eaed", "end a run; its ranks have time to save"),
        ("orch stop --all --grace 0", "end every run on the hosts at once"),
    ),
    "sandbox": (
        ("orch run hello --hosts sandbox", "two hosts on this machine, for one command"),
        ("orch sandbox up --hosts sandbox:3", "start three hosts, and leave them running"),
    ),
    "sandbox up": (
        ("orch sandbox up", "start the hosts of hosts.yaml, which says sandbox: true"),
        ("orch sandbox up --hosts sandbox:3", "start three hosts without a hosts file"),
    ),
    "sandbox down": (
        ("orch sandbox down", "stop the hosts of hosts.yaml"),
        ("orch sandbox down --hosts sandbox:3", "stop the hosts that orch sandbox up --hosts sandbox:3 started"),
    ),
    "help": (
        ("orch help", "list the verbs and the topics"),
        ("orch help outputs", "read about a topic"),
        ("orch help run", "the same as orch run --help"),
    ),
    "completion": (
        ("""echo 'eval "$(orch completion bash)"' >> ~/.bashrc""", "bash 4.4 or later"),
        ("""echo 'eval "$(orch completion zsh)"' >> ~/.zshrc""", "zsh, after compinit"),
        ("orch completion fish > ~/.config/fish/completions/orch.fish", "fish"),
    ),
}
