//! The gates of a profile as functions of a Bourne shell.
//!
//! Why: a run that nobody watches must be refused when the pair is not in a state in which it is safe, whatever carries
//! it out. What can go wrong: a gate that a shell answers more kindly than clonetool does. So each asks the same tool
//! for the same words and passes on nothing else; and a gate that a shell cannot ask makes the export fail, because a
//! script without it would run when the profile says that it must not.

use std::fmt::Write;

use super::text::word;
use crate::profile::{Check, Gate, Hours, Manager, Method, Mounted, Peer, VolumeGroup};

/// The functions `gate_1`, `gate_2` …, and `first_gates` and `gates_again`, which ask them.
///
/// # Errors
/// The first gate that cannot be asked, and why.
pub(super) fn functions(gates: &[Gate]) -> Result<String, (&Gate, &'static str)> {
    let (mut text, mut first, mut again) = (String::new(), String::new(), String::new());
    for (index, gate) in gates.iter().enumerate() {
        let number = index + 1;
        let body = body(&gate.check).map_err(|reason| (gate, reason))?;
        let _ = writeln!(text, "# {} ({})\ngate_{number}() {{\n{body}}}\n", gate.name, gate.check.kind());
        let ask = format!("    hold {number} {} {}\n", gate.timeout.as_secs().max(1), word(&gate.name));
        first.push_str(&ask);
        if gate.check.again_before_commit() {
            again.push_str(&ask);
        }
    }
    let _ = write!(text, "first_gates() {{\n{first}    :\n}}\n\ngates_again() {{\n{again}    :\n}}");
    Ok(text)
}

fn body(check: &Check) -> Result<String, &'static str> {
    match check {
        Check::VolumeGroup(group) => Ok(volume_group(group)),
        Check::Mounted(wanted) => mounted(wanted),
        Check::Peer(wanted) => Ok(peer(wanted)),
        Check::Replication(replication) => match &replication.method {
            Method::Srdf { group } => {
                let tool = program(replication.program.as_deref(), "symrdf");
                Ok(format!("    {tool} -g {} -synchronized verify </dev/null\n", word(group)))
            }
            Method::Command { command } => Ok(arguments(command)),
            _ => Err("a shell cannot read what its method says; of these only srdf and command are asked"),
        },
        Check::DeviceCount { group, replication } => match (group.manager, &replication.method) {
            (Manager::Vxvm, Method::Srdf { group: replicated }) => {
                let list = program(group.program.as_deref(), "vxdisk");
                let show = program(replication.program.as_deref(), "symdg");
                Ok(device_count(&list, &group.group, &show, replicated))
            }
            _ => Err("a shell only counts the disks of vxvm against the devices of srdf"),
        },
        Check::Role => Ok(ROLE.to_owned()),
        Check::Load { max, minutes } => Ok(load(*max, *minutes)),
        Check::Window { hours } => Ok(window(hours)),
        Check::Command { command } => Ok(arguments(command)),
        Check::PackageTransaction => Err("a shell cannot ask whether a lock is held"),
        Check::Space { .. } | Check::Inodes { .. } => Err("a shell does not know what the plan needs"),
    }
}

fn program(given: Option<&std::path::Path>, usual: &str) -> String {
    given.map_or_else(|| usual.to_owned(), |path| word(&path.to_string_lossy()))
}

fn arguments(command: &[String]) -> String {
    let words: Vec<String> = command.iter().map(|argument| word(argument)).collect();
    format!("    {} </dev/null\n", words.join(" "))
}

fn volume_group(wanted: &VolumeGroup) -> String {
    let group = &wanted.group;
    let tool = |usual| program(wanted.program.as_deref(), usual);
    match wanted.manager {
        // Third and fourth of the attributes: exported, partial (vgs(8)).
        Manager::Lvm => format!(
            "    answer=`{} --noheadings --separator , -o vg_name,vg_attr,vg_missing_pv_count,pv_count {group}` || return 1\n    \
             answer=`say $answer`\n    case $answer in\n    {group},??--*,0,[1-9]*) say \"$answer\" ;;\n    \
             *) say \"{group} is exported or incomplete: $answer\"; return 1 ;;\n    esac\n",
            tool("vgs")
        ),
        Manager::Vxvm => format!(
            "    answer=`{} -q list` || return 1\n    \
             state=`say \"$answer\" | awk '$1 == wanted && NF == 3 {{ print $2 }}' wanted={group} -`\n    \
             case ,$state, in\n    *,enabled,*) say \"$state\" ;;\n    \
             *) say \"{group} is not imported here: ${{state:-not listed}}\"; return 1 ;;\n    esac\n",
            tool("vxdg")
        ),
        Manager::Zfs => format!(
            "    answer=`{} list -H -o name,health {group}` || return 1\n    answer=`say $answer`\n    \
             say \"$answer\"\n    test \"$answer\" = \"{group} ONLINE\"\n",
            tool("zpool")
        ),
        Manager::Svm => format!(
            "    answer=`{} -s {group}` || return 1\n    \
             owner=`say \"$answer\" | awk '/^Host[ \\t]+Owner/ {{ on = 1; next }}\n        \
             on && /^[ \\t]/ {{ if ($2 == \"Yes\") print $1; next }}\n        {{ on = 0 }}' | sed 's/\\..*//'`\n    \
             say \"owned by ${{owner:-no host}}\"\n    test \"$owner\" = \"`uname -n | sed 's/\\..*//'`\"\n",
            tool("metaset")
        ),
    }
}

fn mounted(wanted: &Mounted) -> Result<String, &'static str> {
    let is_plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._+,=@%:-".contains(&b));
    let path = wanted.path.to_string_lossy();
    let asked = [Some(&*path), wanted.source.as_deref(), wanted.filesystem.as_deref()];
    if !asked.into_iter().flatten().all(is_plain) {
        return Err("its path, source or filesystem holds what a shell cannot look for in a table of mounts");
    }
    let mut text = format!(
        "    found=`awk '$1 == wanted {{ last = $2 \" \" $3 }} END {{ print last }}' wanted={path} \"$WORK/mounts\"`\n    \
         test -n \"$found\" || {{ say \"nothing is mounted at {path}\"; return 1; }}\n    \
         say \"$found is mounted at {path}\"\n"
    );
    if let Some(filesystem) = &wanted.filesystem {
        let _ = writeln!(text, "    case $found in\n    '{filesystem} '*) ;;\n    *) return 1 ;;\n    esac");
    }
    if let Some(source) = &wanted.source {
        let _ = writeln!(text, "    case $found in\n    *' {source}') ;;\n    *) return 1 ;;\n    esac");
    }
    if let Some(sentinel) = &wanted.sentinel {
        let file = word(&wanted.path.join(sentinel).to_string_lossy());
        let _ = writeln!(
            text,
            "    if test -f {file} && test ! -h {file}; then :; else say \"its sentinel is not there\"; return 1; fi"
        );
    }
    Ok(text)
}

/// What of clonetool's `agent` can be told without one there: that ssh lets this host in and runs what it is asked.
fn peer(wanted: &Peer) -> String {
    let host = wanted.host.as_ref().map_or_else(
        || "    host=`say \"$HOST\" | sed 's/.*@//'`\n".to_owned(),
        |host| format!("    host={}\n", word(host)),
    );
    let mut text = host;
    text.push_str("    test -n \"$host\" || { say \"the standby is on this host\"; return 1; }\n");
    if wanted.ping {
        text.push_str(
            "    case `uname -s` in\n    SunOS) ping \"$host\" 5 ;;\n    *) ping -n -c 1 -w 5 \"$host\" ;;\n    \
             esac || { say \"$host does not answer a ping\"; return 1; }\n",
        );
    }
    if wanted.agent || wanted.tcp {
        text.push_str(
            "    before=`date -u '+%Y %m %d %H %M %S'`\n    \
             there=`remote \"date -u '+%Y %m %d %H %M %S'\"` || { say \"ssh to $host failed\"; return 1; }\n    \
             after=`date -u '+%Y %m %d %H %M %S'`\n",
        );
    }
    if let Some(skew) = wanted.max_clock_skew {
        // Both clocks are read in whole seconds.
        let allowed = skew.as_secs() + u64::from(skew.subsec_nanos() > 0) + 1;
        let _ = write!(
            text,
            "    before=`say \"$before\" | seconds` there=`say \"$there\" | seconds` after=`say \"$after\" | seconds`\n    \
             test -n \"$there\" && test \"$there\" -ge `expr $before - {allowed}` && test \"$there\" -le `expr $after + {allowed}` ||\n        \
             {{ say \"its clock is off by more than is allowed: $before to $after here, $there there\"; return 1; }}\n"
        );
    }
    for (asked, question, what) in
        [(wanted.same_machine, "uname -m", "machine"), (wanted.same_release, "$RELEASE", "release")]
    {
        if asked {
            let _ = write!(
                text,
                "    here=`/bin/sh -c \"{question}\"` there=`remote \"{question}\"` || return 1\n    \
                 test -n \"$here\" && test \"$here\" = \"$there\" ||\n        \
                 {{ say \"not the same {what}: $here here, $there there\"; return 1; }}\n"
            );
        }
    }
    text.push_str("    say \"$host answers\"\n");
    text
}

fn device_count(list: &str, group: &str, show: &str, replicated: &str) -> String {
    format!(
        "    answer=`{list} -g {group} -q list` || return 1\n    \
         disks=`say \"$answer\" | awk 'NF > 0 {{ if ($4 != wanted) bad = 1; n = n + 1 }} END {{ if (!bad) print n + 0 }}' wanted={group} -`\n    \
         answer=`{show} show {replicated}` || return 1\n    \
         devices=`say \"$answer\" | sed -n 's/^ *Number of STD Devices in Group *: *\\([0-9][0-9]*\\) *$/\\1/p'`\n    \
         say \"{group} has ${{disks:-an unknown number of}} disks, and ${{devices:-an unknown number of}} devices are replicated\"\n    \
         test -n \"$disks\" && test \"$disks\" = \"$devices\" && test \"$disks\" -gt 0\n"
    )
}

const ROLE: &str = "    file=var/lib/clonetool/role
    here=`sed 1q \"$from/$file\" | awk '{ print $1 }'` || return 1
    there=`remote \"sed 1q $to/$file\" | awk '{ print $1 }'` || return 1
    say \"the source is ${here:-silent}, the destination is ${there:-silent}\"
    case $here:$there in
    production:standby|standby_as_production:production_as_standby) return 0 ;;
    esac
    return 1
";

fn load(max: f64, minutes: u8) -> String {
    let field = match minutes {
        1 => 1,
        5 => 2,
        _ => 3,
    };
    format!(
        "    load=`uptime | sed -e 's/.*load average[s]*: *//' -e 's/,/ /g' | awk '{{ print ${field} }}'`\n    \
         say \"the load average over {minutes} minutes is ${{load:-unknown}}, at most {max} is allowed\"\n    \
         case $load in\n    ''|*[!0-9.]*) return 1 ;;\n    esac\n    \
         say \"$load\" | awk '{{ exit !($1 <= {max}) }}'\n"
    )
}

fn window(hours: &[Hours]) -> String {
    let clock = |minute: u16| format!("{:02}{:02}", minute / 60, minute % 60);
    let mut text = String::from("    now=`date '+%H%M'`\n    say \"it is $now\"\n");
    for hours in hours {
        let (from, to) = (clock(hours.from), clock(hours.to));
        let both = if hours.from < hours.to { "&&" } else { "||" };
        let _ = writeln!(text, "    if test $now -ge {from} {both} test $now -lt {to}; then return 0; fi");
    }
    text.push_str("    return 1\n");
    text
}
