//! `load`: this host is not too busy to be read whole.
//!
//! Why: a sync reads everything, and a host at its limit has something better to do. What can go wrong: little; a
//! number that cannot be read is no small number.

use std::fs;

use super::{AGAIN, Asked, No};

/// Passes when the load average over `minutes` is at most `max` (proc_loadavg(5)).
pub(super) fn ask(max: f64, minutes: u8, asked: &Asked<'_>) -> Result<String, No> {
    let path = asked.surroundings.proc.join("loadavg");
    let text = fs::read_to_string(&path).map_err(|error| {
        No::cannot_tell(format!("{} cannot be read: {error}", path.display()), "mount /proc")
    })?;
    let Some(load) = parse_loadavg(&text, minutes) else {
        return Err(No::cannot_tell(format!("{} is no load average: {text:?}", path.display()), AGAIN));
    };
    let evidence = format!("the load average over {minutes} minutes is {load:.2}, at most {max} is allowed");
    match load <= max {
        true => Ok(evidence),
        false => Err(No::refuse(evidence, "wait until the host is less busy, or raise `max` in the gate")),
    }
}

/// The average over 1, 5 or 15 minutes.
fn parse_loadavg(text: &str, minutes: u8) -> Option<f64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [one, five, fifteen, _running, _last] = words[..] else { return None };
    let word = match minutes {
        1 => one,
        5 => five,
        _ => fifteen,
    };
    word.parse().ok().filter(|load: &f64| load.is_finite() && *load >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::testing::Bench;
    use super::*;

    fn bench(text: &str) -> Bench {
        let mut bench = Bench::new();
        fs::write(bench.path().join("loadavg"), text).unwrap();
        bench.surroundings.proc = bench.path().to_owned();
        bench
    }

    const KEYS: &str = "kind = \"load\"\nname = \"idle\"\n";

    #[test]
    fn a_host_with_little_to_do_passes() {
        let answer = bench("0.50 1.25 9.00 1/234 5678\n").ask(&format!("{KEYS}max = 1.25"));
        assert_eq!(answer.evidence, "the load average over 5 minutes is 1.25, at most 1.25 is allowed");
        assert!(answer.passed());
        assert!(bench("0.50 7 9 1/2 3").ask(&format!("{KEYS}max = 1\nover = \"1m\"")).passed());
        assert!(Bench::new().ask(&format!("{KEYS}max = 1e9")).passed());
    }

    #[test]
    fn a_busy_host_refuses() {
        let answer = bench("0.50 1.25 9.00 1/234 5678\n").ask(&format!("{KEYS}max = 8\nover = \"15m\""));
        assert_eq!(answer.verdict, Verdict::Refuse);
        assert_eq!(answer.evidence, "the load average over 15 minutes is 9.00, at most 8 is allowed");
    }

    #[test]
    fn what_is_no_load_average_cannot_tell() {
        for text in
            ["", "0.50 1.25", "a b c 1/2 3", "nan nan nan 1/2 3", "-1 -1 -1 1/2 3", "inf inf inf 1/2 3"]
        {
            assert_eq!(bench(text).ask(&format!("{KEYS}max = 8")).verdict, Verdict::Error, "{text:?}");
        }
    }

    #[test]
    fn one_that_never_comes_times_out() {
        let bench = bench("");
        let path = bench.path().join("loadavg");
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(bench.ask(&format!("{KEYS}max = 8\ntimeout = \"1s\"")).verdict, Verdict::TimedOut);
    }
}
