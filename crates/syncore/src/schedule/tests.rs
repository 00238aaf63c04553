//! The calendar against a slow evaluator that looks at every minute, and the texts against what the manuals say.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;

fn calendar(text: &str) -> Calendar {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// 2024-01-01 00:00 UTC, a Monday.
const NEW_YEAR: i64 = 1_704_067_200;

fn moment(day: i64, hour: i64, minute: i64) -> i64 {
    NEW_YEAR + (day * 24 + hour) * 3600 + minute * 60
}

#[test]
fn a_calendar_is_read_and_written_again() {
    for (text, written) in [
        ("30 2 * * *", "30 2 * * *"),
        ("*/10 * * * *", "*/10 * * * *"),
        ("0 0 1,15 jan-mar mon-FRI/2", "0 0 1,15 1-3 1,3,5"),
        ("5 4 31 12 7", "5 4 31 12 0"),
        ("0-59/20 1-3,5 * * 5-7", "0,20,40 1-3,5 * * 0,5,6"),
        ("  0\t0 29 2 * ", "0 0 29 2 *"),
        // The 29th of February that is a Sunday comes, too.
        ("0 0 29 2 */7", "0 0 29 2 */7"),
    ] {
        assert_eq!(calendar(text).to_string(), written, "{text}");
    }
}

#[test]
fn what_is_doubtful_is_refused_with_its_field() {
    for (text, reason) in [
        ("", "it has 0 fields, "),
        ("30 2 * *", "it has 4 fields, "),
        ("0 30 2 * * *", "it has 6 fields, "),
        ("@daily", "it has 1 fields, "),
        ("60 2 * * *", "minute `60`: `60` is not within 0-59"),
        ("5-1 * * * *", "minute `5-1`: the range ends before it begins"),
        ("* * * * fri-sun", "day of week `fri-sun`: the range ends before it begins; Sunday is 7, too"),
        ("*/0 * * * *", "minute `*/0`: the step is no number from 1 to 59"),
        ("*/60 * * * *", "minute `*/60`: the step is no number from 1 to 59"),
        ("* */x * * *", "hour `*/x`: the step is no number from 1 to 23"),
        ("1-9/+2 * * * *", "minute `1-9/+2`: the step is no number from 1 to 8"),
        ("5/2 * * * *", "minute `5/2`: a step needs a range or `*`"),
        ("+5 * * * *", "minute `+5`: `+5` is not within 0-59"),
        ("* 24 * * *", "hour `24`: `24` is not within 0-23"),
        ("* * 0 * *", "day of month `0`: `0` is not within 1-31"),
        ("* * 1-32 * *", "day of month `1-32`: `32` is not within 1-31"),
        ("* * * foo *", "month `foo`: `foo` is not within 1-12"),
        ("* * * mon *", "month `mon`: `mon` is not within 1-12"),
        ("* * * * 8", "day of week `8`: `8` is not within 0-7"),
        (", * * * *", "minute ``: `` is not within 0-59"),
        ("1,,2 * * * *", "minute ``: `` is not within 0-59"),
        ("1- * * * *", "minute `1-`: `` is not within 0-59"),
        ("1-2-3 * * * *", "minute `1-2-3`: `2-3` is not within 0-59"),
        ("*,5 * * * *", "minute `*,5`: `*` stands alone, or with a step"),
        ("0 0 31 2,4,6,9,11 *", "this day never comes"),
    ] {
        let error = text.parse::<Calendar>().expect_err(text).to_string();
        assert!(error.starts_with(reason), "{text}: {error}");
    }
}

#[test]
fn the_next_moment_is_after_the_given_one() {
    let utc: Offset<'_> = &|_| 0;
    let daily = calendar("30 2 * * *");
    assert_eq!(daily.next_due(moment(0, 2, 29), utc), Some(moment(0, 2, 30)));
    assert_eq!(daily.next_due(moment(0, 2, 30), utc), Some(moment(1, 2, 30)));
    assert_eq!(daily.next_due(moment(0, 2, 30) - 1, utc), Some(moment(0, 2, 30)));
    // 2024 is a leap year, and 2100 is none: 2096, then 2104.
    let leap = calendar("0 12 29 feb *");
    assert_eq!(leap.next_due(moment(0, 0, 0), utc), Some(moment(59, 12, 0)));
    assert_eq!(leap.next_due(moment(26_357, 12, 0), utc), Some(moment(29_278, 12, 0)));
    // A Monday or the 15th; with a star both must hold.
    let either = calendar("0 0 15 * mon");
    assert_eq!(either.next_due(moment(8, 0, 0), utc), Some(moment(14, 0, 0)));
    assert_eq!(either.next_due(moment(0, 0, 0), utc), Some(moment(7, 0, 0)));
    assert_eq!(calendar("0 0 */2 * mon").next_due(moment(0, 0, 0), utc), Some(moment(14, 0, 0)));
    assert_eq!(daily.next_due(i64::MAX, utc), None);
    assert_eq!(daily.next_due(i64::MIN, utc), None);
}

#[test]
fn a_run_is_missing_when_half_the_time_to_the_next_is_over_and_an_hour_at_most() {
    let count = |text: &str, after, now| calendar(text).overdue(after, now, 100, &|_| 0);
    let table = [
        ("30 2 * * *", moment(0, 2, 30), moment(1, 3, 30) - 1, 0),
        ("30 2 * * *", moment(0, 2, 30), moment(1, 3, 30), 1),
        ("30 2 * * *", moment(0, 2, 30), moment(3, 12, 0), 3),
        // By hand, before it was due; and it was not due since.
        ("30 2 * * *", moment(1, 2, 0), moment(1, 3, 29), 0),
        ("30 2 * * *", moment(1, 2, 0), moment(1, 3, 30), 1),
        ("30 2 * * *", moment(1, 2, 45), moment(1, 23, 0), 0),
        ("5 * * * *", moment(0, 0, 5), moment(0, 1, 34), 0),
        ("5 * * * *", moment(0, 0, 5), moment(0, 1, 35), 1),
        ("*/10 * * * *", moment(0, 0, 0), moment(0, 0, 14), 0),
        ("*/10 * * * *", moment(0, 0, 0), moment(0, 0, 15), 1),
        ("* * * * *", moment(0, 0, 0), moment(9, 0, 0), 100),
        ("30 2 * * *", moment(5, 0, 0), moment(0, 0, 0), 0),
    ];
    for (text, after, now, expected) in table {
        assert_eq!(count(text, after, now), expected, "{text} from {after} to {now}");
    }
}

#[test]
fn missed_runs_are_counted_up_to_a_limit() {
    let hourly = calendar("5 * * * *");
    let utc: Offset<'_> = &|_| 0;
    assert_eq!(hourly.missed(moment(0, 0, 5), moment(0, 3, 5), 100, utc), 3);
    assert_eq!(hourly.missed(moment(0, 0, 5), moment(0, 1, 4), 100, utc), 0);
    assert_eq!(hourly.missed(moment(0, 0, 0), moment(3650, 0, 0), 100, utc), 100);
    assert_eq!(hourly.missed(moment(3, 0, 0), moment(0, 0, 0), 100, utc), 0);
}

/// Central Europe in 2024: forward at 01:00 UTC on the 31st of March, back at 01:00 UTC on the 27th of October.
fn europe(moment: i64) -> i32 {
    if (1_711_846_800..1_729_990_800).contains(&moment) { 7200 } else { 3600 }
}

#[test]
fn a_left_out_hour_is_made_up_for_and_a_repeated_one_counts_once() {
    let (forward, back) = (1_711_846_800, 1_729_990_800);
    let daily = calendar("30 2 * * *");
    assert_eq!(daily.next_due(forward - 3600, &europe), Some(forward));
    assert_eq!(daily.next_due(forward, &europe), Some(forward + 23 * 3600 + 1800));
    // Twice within the hour that is left out, and once just after it: one run.
    assert_eq!(calendar("0,30 2,3 * * *").missed(forward - 1, forward, 9, &europe), 1);
    assert_eq!(daily.missed(back - 2 * 3600, back + 2 * 3600, 9, &europe), 1);
    assert_eq!(daily.next_due(back - 3600, &europe), Some(back - 1800));
    // Every hour goes on every hour.
    assert_eq!(calendar("30 * * * *").missed(forward - 7200, forward + 7200, 9, &europe), 4);
    assert_eq!(calendar("30 * * * *").missed(back - 7200, back + 7200, 9, &europe), 4);
}

/// What was meant, minute by minute.
fn naive(text: &Fields, after: i64, until: i64, offset: Offset<'_>) -> Vec<i64> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    let local = |moment: i64| moment + i64::from(offset(moment));
    let mut last = local(after - 90_000);
    for at in (after - 90_000..=until).step_by(60) {
        let now = local(at);
        let due = if text.fixed() {
            let skipped = (last + 60..now).step_by(60).any(|minute| text.matches(minute));
            let due = (text.matches(now) && !seen.contains(&now)) || skipped;
            seen.insert(now);
            due
        } else {
            text.matches(now)
        };
        last = now;
        if due && at > after {
            found.push(at);
        }
    }
    found
}

/// Five fields as lists of what they name; none for a star.
#[derive(Debug, Clone)]
struct Fields([Option<Vec<u8>>; 5]);

impl Fields {
    fn text(&self) -> String {
        let list = |list: &Vec<u8>| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let fields: Vec<String> =
            self.0.iter().map(|field| field.as_ref().map_or("*".into(), list)).collect();
        fields.join(" ")
    }

    fn fixed(&self) -> bool {
        self.0[0].is_some() && self.0[1].is_some()
    }

    fn matches(&self, local: i64) -> bool {
        let (day, second) = (local.div_euclid(86_400), local.rem_euclid(86_400));
        // The date counted up from the new year of 2023, month by month.
        let (mut year, mut month, mut of_month) = (2023, 1, day - 19_358);
        loop {
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + i64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            if of_month < length {
                break;
            }
            of_month -= length;
            (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
        }
        let has = |field: usize, value: i64| {
            self.0[field].as_ref().is_none_or(|list| list.iter().any(|n| i64::from(*n) == value))
        };
        let week = (day + 4) % 7;
        let (date, week) = (has(2, of_month + 1), has(4, week) || (week == 0 && has(4, 7)));
        let days = match (&self.0[2], &self.0[4]) {
            (Some(_), Some(_)) => date || week,
            _ => date && week,
        };
        second % 60 == 0 && has(0, second / 60 % 60) && has(1, second / 3600) && has(3, month) && days
    }
}

fn field(first: u8, last: u8) -> impl Strategy<Value = Option<Vec<u8>>> {
    let all: Vec<u8> = (first..=last).collect();
    let some = subsequence(all.clone(), 1..=all.len().min(4));
    prop_oneof![1 => Just(None), 3 => some.prop_map(Some)]
}

fn fields() -> impl Strategy<Value = Fields> {
    (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7))
        .prop_map(|(a, b, c, d, e)| Fields([a, b, c, d, e]))
}

fn item(field: Field) -> impl Strategy<Value = String> {
    let (first, last) = field.range().into_inner();
    let range = (first..=last).prop_flat_map(move |from| (Just(from), from..=last));
    prop_oneof![
        (first..=last).prop_map(|n| n.to_string()),
        range.clone().prop_map(|(from, to)| format!("{from}-{to}")),
        range
            .prop_flat_map(|(from, to)| (Just((from, to)), 1..=(to - from).max(1)))
            .prop_map(|((from, to), step)| format!("{from}-{to}/{step}")),
    ]
}

fn field_text(field: Field) -> impl Strategy<Value = String> {
    let last = field.range().into_inner().1;
    prop_oneof![
        Just("*".to_owned()),
        (1..last).prop_map(|step| format!("*/{step}")),
        prop::collection::vec(item(field), 1..4).prop_map(|items| items.join(",")),
    ]
}

fn calendar_text() -> impl Strategy<Value = String> {
    (
        field_text(Field::Minute),
        field_text(Field::Hour),
        field_text(Field::DayOfMonth),
        field_text(Field::Month),
        field_text(Field::DayOfWeek),
    )
        .prop_map(|(a, b, c, d, e)| format!("{a} {b} {c} {d} {e}"))
}

proptest! {
    #[test]
    fn what_is_written_reads_the_same(text in calendar_text()) {
        if let Ok(read) = text.parse::<Calendar>() {
            prop_assert_eq!(read.to_string().parse::<Calendar>(), Ok(read), "{}", read);
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "[-*/, 0-9a-z\u{e9}]{0,24}") {
        let _ = text.parse::<Calendar>();
    }

    #[test]
    fn it_agrees_with_a_look_at_every_minute(
        fields in fields(),
        start in 0..365_i64 * 1440,
        change_after_minutes in 0..4320_i64,
        before in select(vec![-12_600, 0, 3600, 20_700]),
        by in select(vec![-7200, -3600, -1800, 0, 1800, 3600, 7200, 86_400]),
    ) {
        let Ok(read) = fields.text().parse::<Calendar>() else { return Ok(()) };
        let after = NEW_YEAR + start * 60;
        let change = after + change_after_minutes * 60;
        let offset = move |moment: i64| if moment < change { before } else { before + by };
        let until = after + 4 * 86_400;
        let next = |last: &i64| read.next_due(*last, &offset);
        let due: Vec<i64> = std::iter::successors(next(&after), next).take_while(|due| *due <= until).collect();
        prop_assert_eq!(&due, &naive(&fields, after, until, &offset), "{}", fields.text());
        prop_assert_eq!(read.missed(after, until, 10_000, &offset), due.len());
    }

    #[test]
    fn a_cron_without_steps_is_told_the_same_days(text in calendar_text()) {
        let Ok(read) = text.parse::<Calendar>() else { return Ok(()) };
        let command = ["/x".to_owned()];
        let entry = Entry { calendar: &read, name: "x", user: "root", command: &command };
        let Ok(line) = solaris_entry(&entry) else { return Ok(()) };
        let plain: String = line.split(' ').take(5).collect::<Vec<_>>().join(" ");
        prop_assert!(!plain.contains(['/', '-']) && plain.bytes().all(|b| b" ,*0123456789".contains(&b)), "{}", plain);
        let plain = calendar(&plain);
        for month in 1..=12 {
            for (date, week) in (1..=31).flat_map(|date| (0..7).map(move |week| (date, week))) {
                prop_assert_eq!(plain.on(month, date, week), read.on(month, date, week), "{} {}", read, plain);
            }
        }
        prop_assert!(plain.minute.values().eq(read.minute.values()) && plain.hour.values().eq(read.hour.values()));
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn the_text_for_cron_is_safe_from_cron_and_shell() {
    let command = words(&["/opt/a b/clonetool", "sync", "50%", "it's $HOME", "", "-q"]);
    let nightly = calendar("30 2 * * mon-fri");
    let entry = Entry { calendar: &nightly, name: "daily", user: "backup", command: &command };
    assert_eq!(
        cron_file("# ours", &entry).expect("text"),
        "# ours\nSHELL=/bin/sh\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
         30 2 * * 1-5 backup '/opt/a b/clonetool' sync '50\\%' 'it'\\''s $HOME' '' -q\n"
    );
    let command = words(&["/x\ny"]);
    let entry = Entry { command: &command, ..entry };
    assert_eq!(cron_file("# ours", &entry), Err(EntryError::Control { word: "/x\ny".into() }));
    assert!(service("# ours", &entry).is_err() && solaris_entry(&entry).is_err());
}

#[test]
fn a_cron_that_knows_no_steps_is_given_lists() {
    let command = words(&["/opt/clonetool/sync.sh"]);
    let line = |text: &str| {
        let calendar = calendar(text);
        let line = solaris_entry(&Entry { calendar: &calendar, name: "x", user: "root", command: &command })?;
        Ok(line.split(" PATH=").next().expect("fields").to_owned())
    };
    assert_eq!(line("*/20 1-3 * jan-mar fri-7"), Ok("0,20,40 1,2,3 * 1,2,3 0,5,6".into()));
    assert_eq!(line("0-59 0-23 1-31 1-12 0-7"), Ok("* * * * *".into()));
    // Any day of the month, or a Monday: any day.
    assert_eq!(line("0 0 1-31 * mon"), Ok("0 0 * * *".into()));
    assert_eq!(line("0 0 13 * fri"), Ok("0 0 13 * 5".into()));
    let both = EntryError::BothDays { calendar: "0 0 */2 * 1".into() };
    assert_eq!(line("0 0 */2 * mon"), Err(both));
}

#[test]
fn the_calendar_for_systemd_means_the_same() {
    for (text, lines) in [
        ("30 2 * * *", &["*-*-* 02:30:00"][..]),
        ("*/20 * * * *", &["*-*-* *:00,20,40:00"]),
        ("0 0 * 1-3 mon,sun", &["Sun,Mon *-01,02,03-* 00:00:00"]),
        ("0 0 13 * fri", &["*-*-13 00:00:00", "Fri *-*-* 00:00:00"]),
        ("0 0 */10 * fri", &["Fri *-*-01,11,21,31 00:00:00"]),
        ("0 0 1-31 * fri", &["*-*-* 00:00:00"]),
    ] {
        assert_eq!(on_calendar(&calendar(text)), lines, "{text}");
    }
}

#[test]
fn the_units_say_when_and_what() {
    let hourly = calendar("5 * * * *");
    let command = words(&["/usr/bin/clonetool", "sync", "50% $x \"\\"]);
    let entry = Entry { calendar: &hourly, name: "hourly", user: "root", command: &command };
    let text = timer("# ours", &entry, Some(std::time::Duration::from_secs(300)));
    assert!(text.starts_with("# ours\n[Unit]\n"), "{text}");
    for line in
        ["OnCalendar=*-*-* *:05:00", "Persistent=true", "RandomizedDelaySec=300", "WantedBy=timers.target"]
    {
        assert!(text.lines().any(|found| found == line), "{text}");
    }
    assert!(!timer("# ours", &entry, None).contains("RandomizedDelaySec"));
    let text = service("# ours", &entry).expect("text");
    assert!(text.contains("\nExecStart=/usr/bin/clonetool sync \"50%% $$x \\\"\\\\\"\n"), "{text}");
    // Each of these makes a mount namespace or a filter, and a sync that pulls writes everywhere.
    for breaks in ["ProtectSystem=", "ProtectHome=", "PrivateTmp=", "PrivateDevices=", "NoNewPrivileges="] {
        assert!(!text.contains(breaks), "{text}");
    }
}
