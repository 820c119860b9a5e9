#!/bin/sh
# Runs tests on the kernel's datapath of Open vSwitch, on any machine: scripts/kernel.sh [TEST…]
#
# A virtual machine with Debian's kernel (qemu, emulated unless ACCEL=kvm) is made of packages below
# target/kernel. In it, the tests named run with labs on the module's datapath, and then the machine
# itself becomes a node: an example is applied, it reboots, and systemd/ringfence.service has to
# bring everything back. Needs root, about 4 GB of disk and, emulated, an hour for all of the tests.
# PROFILE=dev tries what `cargo test` has built already, instead of a release build.
set -eu
cd "$(dirname "$0")/.."
repository=$PWD work=$PWD/target/kernel accel=${ACCEL:-tcg} profile=${PROFILE:-release}
[ "$(id -u)" = 0 ] || exec sudo --preserve-env "$0" "$@"

command -v qemu-system-x86_64 debootstrap mke2fs >/dev/null || {
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends qemu-system-x86 debootstrap e2fsprogs >/dev/null
}
mkdir -p "$work/share"

if [ ! -e "$work/base/done" ]; then
	rm -rf "$work/base"
	debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,udev,kmod,iputils-ping,linux-image-amd64 \
		bookworm "$work/base" >"$work/debootstrap.log"
	cp /etc/resolv.conf "$work/base/etc/"
	printf '9p\n9pnet_virtio\nvirtio_pci\nvirtio_blk\n' >>"$work/base/etc/initramfs-tools/modules"
	chroot "$work/base" update-initramfs -u >/dev/null
	cp scripts/kernel/guest.service "$work/base/etc/systemd/system/"
	cp scripts/kernel/uplink.network "$work/base/etc/systemd/network/"
	chroot "$work/base" systemctl --quiet enable guest systemd-networkd
	echo node-1 >"$work/base/etc/hostname"
	mkdir "$work/base/repository" "$work/base/share"
	touch "$work/base/done"
fi
# Again where it has come to install more.
cmp -s scripts/install.sh "$work/base/install.sh" || {
	cp scripts/install.sh "$work/base/new.sh"
	chroot "$work/base" sh /new.sh
	mv "$work/base/new.sh" "$work/base/install.sh"
}

# Built here: the tests know their program by its path, so the guest has it at the same.
cargo build --quiet --profile "$profile"
suite=$(cargo test --quiet --profile "$profile" --test suite --no-run --message-format=json |
	sed -n 's/.*"executable":"\([^"]*\/suite-[^"]*\)".*/\1/p')
rm -f "$work"/share/*
strip -o "$work/share/suite" "$suite"
program=$(dirname "$(dirname "$suite")")/ringfence
strip -o "$work/share/ringfence" "$program"
cp scripts/kernel/guest.sh "$work/share/"
printf '%s\n' "$repository" >"$work/share/where"
printf '%s\n' "$program" >"$work/share/program"
printf '%s\n' "$@" >"$work/share/tests"
env | sed -n 's/^\(RINGFENCE_[A-Z_]*\)=\([0-9A-Za-z]*\)$/export \1=\2/p' >"$work/share/environment"

rm -f "$work/disk"
truncate -s 12G "$work/disk"
mke2fs -q -t ext4 -d "$work/base" "$work/disk"

# Twice, since the machine reboots: it leaves its log and its result in the shared directory.
for boot in first second; do
	echo "the $boot boot"
	qemu-system-x86_64 -accel "$accel" -cpu max -smp 2 -m 4096 -nographic -no-reboot \
		-kernel "$work"/base/boot/vmlinuz-* -initrd "$work"/base/boot/initrd.img-* \
		-append "root=/dev/vda rw console=ttyS0 quiet net.ifnames=0" \
		-drive "file=$work/disk,if=virtio,format=raw,cache=unsafe" \
		-virtfs "local,path=$repository,mount_tag=repository,security_model=none,readonly=on" \
		-virtfs "local,path=$work/share,mount_tag=share,security_model=none" \
		-nic hubport,hubid=0,model=virtio-net-pci -device virtio-rng-pci \
		</dev/null >"$work/console-$boot.log" 2>&1 &
	machine=$!
	trap 'kill $machine 2>/dev/null' EXIT
	tail -n +1 -F --pid=$machine "$work/share/$boot.log" 2>/dev/null || true
	wait $machine
	trap - EXIT
	[ "$(cat "$work/share/$boot.status" 2>/dev/null)" = 0 ] || {
		echo "the $boot boot failed; see $work/console-$boot.log" >&2
		exit 1
	}
done
