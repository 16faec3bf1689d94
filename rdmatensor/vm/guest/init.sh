#!/bin/sh
# init.sh: the first process of the guest. Loads the modules, puts a writable layer over the read-only root, lays the
# network, and starts the agent; when the agent ends, so does the machine. Options: rdmatensor.* on the command line.

PATH=/bin
b=/bin/busybox
for applet in mount insmod mkdir cp cat chroot poweroff; do
    $b ln -s busybox /bin/$applet
done

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
    insmod "$module"
done

mount -t squashfs -o ro /dev/vda /image || echo "rdmatensor: the root image cannot be mounted"
mount -t tmpfs -o mode=755,size=75% writes /writes
mkdir /writes/upper /writes/work
mount -t overlay -o lowerdir=/image,upperdir=/writes/upper,workdir=/writes/work overlay /root

mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
mkdir -p /root/dev/shm /root/dev/pts
mount -t tmpfs -o mode=1777 shm /root/dev/shm
mount -t devpts pts /root/dev/pts
ln=/root/dev/fd
$b ln -s /proc/self/fd $ln
$b ln -s /proc/self/fd/0 /root/dev/stdin
$b ln -s /proc/self/fd/1 /root/dev/stdout
$b ln -s /proc/self/fd/2 /root/dev/stderr
mount -t tmpfs -o mode=755 run /root/run
mkdir /root/run/rdmatensor
cp /guest/* /root/run/rdmatensor/

ulimit -l unlimited
$b hostname guest
python=$(cat /root/etc/rdmatensor-python)
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
chroot /root /bin/sh /run/rdmatensor/network.sh one &&
    chroot /root "$python" /run/rdmatensor/agent.py

echo "rdmatensor: the agent has ended"
echo b >/root/proc/sysrq-trigger
