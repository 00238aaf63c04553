#!/bin/sh
# Run by the booted standby: says on the second serial port who it is, and whether anything of production's ran.
#
# Each fact is one line `PROOF name value…`. It waits until all of the boot is over, and then until cron has been
# through a minute: a job of production's would have run by then.
exec </dev/null >/dev/ttyS1 2>&1
say() { printf 'PROOF %s\n' "$*"; }

say begin
say state "$(systemctl is-system-running --wait)"
say hostname "$(hostname)"
say machine-id "$(cat /etc/machine-id)"
say dbus-machine-id "$(cat /var/lib/dbus/machine-id)"
say root "$(findmnt -no UUID,SOURCE,OPTIONS /)"
say kernel "$(uname -r)"
say cmdline "$(cat /proc/cmdline)"
for key in /etc/ssh/ssh_host_*_key.pub; do
    say host-key "$(ssh-keygen -l -f "$key")"
done
ip -o -4 address show scope global | while read -r _ interface _ address _; do say address "$address $interface"; done
swapon --noheadings --show=UUID,NAME | while read -r swap; do say swap "$swap"; done
findmnt -rno TARGET,SOURCE --real | while read -r mount; do say mount "$mount"; done
systemctl list-units --failed --plain --no-legend | while read -r unit _; do
    say failed "$unit"
    systemctl status --no-pager --lines=10 "$unit" | sed 's/^/    /'
done
say sshd "$(systemctl is-active ssh.service)"
say ready

waited=0
until [ -e /run/boot-proof-minute ] || [ "$waited" -ge 100 ]; do
    sleep 1
    waited=$((waited + 1))
done
if [ -e /run/boot-proof-minute ]; then say minute; fi
# The other jobs of that minute were started with the one that was seen.
sleep 5
if [ -e /var/marker ]; then
    while read -r marker; do say marker "$marker"; done </var/marker
fi
# Stands for a mail server, which would send whatever it finds queued.
for queued in $(find /var/spool/mqueue /var/spool/postfix/deferred -type f 2>/dev/null); do
    say marker "mail $queued"
done
say end
systemctl poweroff --force
