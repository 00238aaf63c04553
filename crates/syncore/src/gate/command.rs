//! `command`: a program of the operator says whether a run may begin.
//!
//! Why: what makes an application quiet, or a site's own rule, nobody else can know. What can go wrong: a program that
//! is not there or hangs; that is no yes. Its text is kept as evidence, since only its author knows what it means.

use std::path::Path;

use super::{Asked, No, tool};
use crate::tree::escape;

/// Passes when it ends with exit code 0.
pub(super) fn ask(command: &[String], asked: &Asked<'_>) -> Result<String, No> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(No::cannot_tell("no command is given", "name one with `command` in the gate"));
    };
    let reply = tool::run(program, Some(Path::new(program)), arguments, asked)?;
    if reply.code != 0 {
        let shown = escape(program.as_bytes());
        return Err(No::refuse(reply.evidence(), format!("do what {shown} asks for; it ends with 0 then")));
    }
    match tool::last_words(&reply.said) {
        said if said.is_empty() => Ok("exit code 0".to_owned()),
        said => Ok(said),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::testing::{Bench, gate};

    fn shell(script: &str) -> String {
        format!("kind = \"command\"\nname = \"quiet\"\ncommand = [\"/bin/sh\", \"-c\", '{script}']\n")
    }

    #[test]
    fn exit_code_0_passes_and_what_it_said_is_the_evidence() {
        let answer = Bench::new().ask(&shell("echo no users"));
        assert_eq!((answer.verdict, &answer.evidence[..]), (Verdict::Pass, "no users"));
        assert_eq!(Bench::new().ask(&shell("true")).evidence, "exit code 0");
    }

    #[test]
    fn any_other_exit_code_refuses_with_what_it_said() {
        let answer = Bench::new().ask(&shell("echo 3 users are logged in >&2; exit 1"));
        assert_eq!(answer.verdict, Verdict::Refuse);
        assert_eq!(answer.evidence, "exit code 1: 3 users are logged in");
        assert_eq!(answer.next, "do what /bin/sh asks for; it ends with 0 then");
    }

    #[test]
    fn a_program_that_is_not_there_or_dies_cannot_tell() {
        let missing = "kind = \"command\"\nname = \"quiet\"\ncommand = [\"/nonexistent/quiet\"]\n";
        let answer = Bench::new().ask(missing);
        assert_eq!(answer.verdict, Verdict::Error);
        assert!(answer.evidence.starts_with("/nonexistent/quiet cannot be run: "), "{}", answer.evidence);
        let answer = Bench::new().ask(&shell("kill -9 $$"));
        assert_eq!(answer.verdict, Verdict::Error);
        assert!(answer.evidence.contains("signal"), "{}", answer.evidence);
    }

    #[test]
    fn one_that_hangs_is_killed_and_is_a_refusal_with_what_it_said_until_then() {
        let answer =
            Bench::new().ask(&format!("{}timeout = \"1s\"\n", shell("echo waiting; exec sleep 1000")));
        assert_eq!(answer.verdict, Verdict::TimedOut);
        assert_eq!(answer.evidence, "no answer within 1 seconds; until then: waiting");
        assert!(answer.next.contains("`timeout`"));
    }

    #[test]
    fn nothing_of_the_callers_environment_reaches_it() {
        let answer = Bench::new().ask(&shell("/usr/bin/env | sort | tr \"\\n\" \" \""));
        assert!(answer.evidence.starts_with("LANG=C LC_ALL=C PATH=/usr/sbin:"), "{}", answer.evidence);
        assert!(!answer.evidence.contains("HOME"), "{}", answer.evidence);
    }

    #[test]
    fn what_is_no_argument_list_is_an_error_of_the_profile() {
        for (text, reason) in [
            ("kind = \"command\"\nname = \"a\"", "x.toml:1: the gate lacks the key `command`"),
            (
                "kind = \"command\"\nname = \"a\"\ncomand = [\"/x\"]",
                "x.toml:4: unknown key `comand`; did you mean `command`?",
            ),
            (
                "kind = \"command\"\nname = \"a\"\ncommand = [\"x\"]",
                "x.toml:4: bad command `x`: the program is not an absolute path",
            ),
            (
                "kind = \"command\"\nname = \"-a\"\ncommand = [\"/x\"]",
                "x.toml:3: bad name `-a`: a name has letters, digits and `.`, `_`, `+`, `:`, `-` only, and begins \
                 with none of the last",
            ),
            ("kind = \"comand\"\nname = \"a\"", "x.toml:2: unknown value `comand`; did you mean `command`?"),
        ] {
            assert_eq!(gate(text).unwrap_err().to_string(), reason);
        }
    }
}
