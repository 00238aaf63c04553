# The preparation under test; sourced by the job, which sets the variables.
#
# Its output is looked at, and printed from a file: on a terminal it might be drawn rather than written.
/job/clonetool prepare-root /a --hostname "$STANDBY" --boot-disk "$(readlink -f "$target")" \
    --address "ens3=$ADDRESS/24,gw=10.0.2.2" >/run/prepared 2>&1
prepared=$?
cat /run/prepared
[ "$prepared" != 0 ] || [ "$(tail -n 1 /run/prepared)" = READY ] || prepared=99
(exit "$prepared")
