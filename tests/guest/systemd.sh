# Sourced by the guest's first program, which so becomes systemd: one target with one service, which
# runs the command. Nothing of this machine's own units is wanted by it.
units=/run/systemd/system
mkdir -p "$units"
# Nor does a system have to be brought up, with its journal, devices and temporary files.
for group in sysinit sockets timers paths; do
    for wanted in /lib/systemd/system/$group.target.wants/* /etc/systemd/system/$group.target.wants/*; do
        ln -sf /dev/null "$units/$(basename "$wanted")"
    done
done
cat >"$units/lane.target" <<'UNIT'
[Unit]
Description=What the guest was booted for
Wants=lane.service
UNIT
cat >"$units/lane.service" <<'UNIT'
[Unit]
Description=The command
DefaultDependencies=no
[Service]
Type=exec
ExecStart=/guest/lane
Delegate=yes
UNIT
{
    echo '#!/bin/sh'
    echo '. /guest/variables'
    echo 'exec </dev/null >/dev/ttyS0 2>&1'
    echo 'sh /guest/command'
    echo 'echo $? >/dev/ttyS1'
    echo 'busybox poweroff -f'
} >/guest/lane
chmod 755 /guest/lane
exec /lib/systemd/systemd --unit=lane.target --show-status=false
