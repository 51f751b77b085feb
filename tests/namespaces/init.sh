#!/bin/sh
# Process 1 of a host: connect the host to the switch, mount its own folders, become its sshd.
# $1 is the host's folder, $2 the path of sshd; standard input is the switch's network namespace, as a file.
set -eu
node=$1
for family in all default; do
    ! [ -e "/proc/sys/net/ipv6/conf/$family" ] || echo 1 >"/proc/sys/net/ipv6/conf/$family/disable_ipv6"
done
nsenter --net=/proc/self/fd/0 ip -batch "$node/port.ip" </proc/self/fd/0
exec </dev/null
ip -batch "$node/eth0.ip"
cat "$node/etc/hostname" >/proc/sys/kernel/hostname
# The table's last lines cover folders that $node may lie in, so nothing is read from $node after this.
mount --all --fstab "$node/fstab"
exec "$2" -D -e -f /etc/ssh/sshd_config
