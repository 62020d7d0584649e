#!/bin/sh
# First process of a guest, which has nothing but its initramfs. Runs `doctor`, then the tests that /tests names: where the
# kernel lacks something those of /tests-without. Serial lines: ttyS0 the kernel's console, ttyS1 what is printed, ttyS2 the
# results, a JSON text a line, the last of which is the exit code.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb NO_COLOR=1 LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/netns /run/lock
ip link set lo up
hostname slipstream
exec </dev/null >/dev/ttyS1 2>&1
# What is printed is read by people and programs of the host.
stty -opost -F /dev/ttyS1
stty -opost -F /dev/ttyS2

cd /slipstream || exit
echo "  $(uname -rv)"
doctor=$(bin/slipstream-bpf doctor --json | tr -d '\n')
tests=/tests
echo "$doctor" | grep -q '"kernel features", *"status": "ok"' || tests=/tests-without
echo "{\"doctor\":${doctor:-null}}" >/dev/ttyS2
xargs env TEST_RECORD=/run/record node node_modules/mocha/bin/mocha.js --no-color --reporter test/kernels/reporter.cjs <"$tests"
status=$?
[ ! -s /run/record ] || cat /run/record >/dev/ttyS2
echo "{\"status\":$status}" >/dev/ttyS2
# Turns off when all is sent.
stty -F /dev/ttyS2 >/dev/null
sleep 0.1
echo o >/proc/sysrq-trigger
sleep 60
