//! `window`: the hours of the day in which a run may begin.
//!
//! Why: a run that was missed is made up for, and not at noon. The hours are those of this host's clock on the wall:
//! date(1) is asked, because the standard library knows no time zones. What can go wrong: a window across midnight;
//! a clock that cannot be read is no time within it.

use super::{AGAIN, Asked, No, tool};
use crate::profile::Hours;

/// Passes when the local time is within any of the hours.
pub(super) fn ask(hours: &[Hours], asked: &Asked<'_>) -> Result<String, No> {
    let reply = tool::run("date", None, ["+%H:%M"], asked)?;
    let Some(minute) = parse_time(&reply.said).filter(|_| reply.code == 0) else {
        return Err(No::cannot_tell(format!("date said no time: {}", reply.evidence()), AGAIN));
    };
    let windows: Vec<String> =
        hours.iter().map(|hours| format!("{}-{}", clock(hours.from), clock(hours.to))).collect();
    let windows = windows.join(", ");
    match hours.iter().any(|hours| hours.contains(minute)) {
        true => Ok(format!("it is {}, within {windows}", clock(minute))),
        false => Err(No::refuse(
            format!("it is {}, not within {windows}", clock(minute)),
            "run it within these hours, or change `hours` in the gate",
        )),
    }
}

fn clock(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

/// Minutes since midnight from `HH:MM`.
fn parse_time(said: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(said).ok()?.strip_suffix('\n')?;
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str, below: u16| {
        text.parse::<u16>().ok().filter(|n| text.len() == 2 && text.as_bytes()[0] != b'+' && *n < below)
    };
    Some(number(hour, 24)? * 60 + number(minute, 60)?)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::testing::{Bench, gate};

    fn at(time: &str) -> Bench {
        let mut bench = Bench::new();
        bench.program("date", &format!("[ \"$1\" = +%H:%M ] && echo '{time}'"));
        bench
    }

    const NIGHT: &str = "kind = \"window\"\nname = \"night\"\nhours = [\"22:00-05:30\", \"12:00-13:00\"]";

    #[test]
    fn within_the_hours_it_passes_also_across_midnight() {
        for time in ["22:00", "23:59", "00:00", "05:29", "12:00", "12:59"] {
            let answer = at(time).ask(NIGHT);
            assert_eq!(answer.evidence, format!("it is {time}, within 22:00-05:30, 12:00-13:00"));
            assert!(answer.passed());
        }
        // The real date, and a window without end.
        assert!(Bench::new().ask("kind = \"window\"\nname = \"a\"\nhours = [\"00:00-24:00\"]").passed());
    }

    #[test]
    fn outside_it_refuses() {
        for time in ["05:30", "11:59", "13:00", "21:59"] {
            let answer = at(time).ask(NIGHT);
            assert_eq!(answer.verdict, Verdict::Refuse, "{time}");
            assert_eq!(answer.evidence, format!("it is {time}, not within 22:00-05:30, 12:00-13:00"));
        }
    }

    #[test]
    fn a_clock_that_says_no_time_cannot_tell() {
        for time in ["", "noon", "25:00", "1:00", "12:60", "+1:00", "12:00\n12:00"] {
            assert_eq!(at(time).ask(NIGHT).verdict, Verdict::Error, "{time:?}");
        }
        let mut failing = Bench::new();
        failing.program("date", "echo 23:00; exit 1");
        assert_eq!(failing.ask(NIGHT).verdict, Verdict::Error);
    }

    #[test]
    fn a_clock_that_hangs_times_out() {
        let mut hanging = Bench::new();
        hanging.program("date", "exec sleep 1000");
        assert_eq!(hanging.ask(&format!("{NIGHT}\ntimeout = \"1s\"")).verdict, Verdict::TimedOut);
    }

    #[test]
    fn hours_that_are_none_are_an_error_of_the_profile() {
        for hours in ["", "\"22-5\"", "\"24:00-01:00\"", "\"22:00-24:01\"", "\"2:00-3:00\"", "\"22:00\""] {
            let error = gate(&format!("kind = \"window\"\nname = \"a\"\nhours = [{hours}]")).unwrap_err();
            assert!(error.to_string().starts_with("x.toml:4: bad hours"), "{error}");
        }
    }
}
