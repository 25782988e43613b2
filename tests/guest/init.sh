#!/bin/sh
# The first program in the guest's own root: mounts what a system has, then runs the command.
. /guest/variables
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,gid=5,ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
ip link set lo up
if [ -n "$GUEST_SYSTEMD" ]; then
    . /guest/systemd
fi
# As where systemd is first: the controllers are handed down, and nobody stands at the root.
echo "+cpu +memory +pids +io" >/sys/fs/cgroup/cgroup.subtree_control
mkdir -p /sys/fs/cgroup/system.slice
echo "+cpu +memory +pids +io" >/sys/fs/cgroup/system.slice/cgroup.subtree_control
mkdir -p /sys/fs/cgroup/system.slice/lane.service
echo $$ >/sys/fs/cgroup/system.slice/lane.service/cgroup.procs
exec </dev/null >/dev/ttyS0 2>&1
sh /guest/command
echo $? >/dev/ttyS1
busybox poweroff -f
