"""The runs folder of this machine: the runs recorded there, and the code that they ran."""
