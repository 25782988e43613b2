#!/bin/busybox sh
# The guest's first program: this machine's files below, a memory to write to above, a disk beside.
set -e
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
while read -r module; do
    insmod "/modules/$module"
done </modules/order
mount -t virtiofs -o ro root /below
mount -t tmpfs -o mode=755,size=1g above /above
mkdir /above/files /above/work
mount -t overlay -o lowerdir=/below,upperdir=/above/files,workdir=/above/work root /new
mkdir /new/guest
mount -t ext4 -o noatime /dev/vda /new/guest
umount /proc
exec switch_root /new /guest/init
