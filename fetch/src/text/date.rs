//! Dates as services and servers write them, as seconds since 1970. Pure.

/// Seconds since 1970 of `2026-11-21T05:35:02Z` or `..+01:00` (RFC 3339); parts of a second are dropped.
pub(crate) fn rfc3339(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let (time, offset) = match time.strip_suffix(['Z', 'z']) {
        Some(time) => (time, 0),
        None => {
            let (time, offset) = time.split_at(time.rfind(['+', '-'])?);
            let (hours, minutes) = offset.get(1..)?.split_once(':')?;
            let seconds = i64::try_from(number(hours)? * 3600 + number(minutes)? * 60).ok()?;
            (time, if offset.starts_with('-') { -seconds } else { seconds })
        }
    };
    let whole = time.split('.').next()?;
    let numbers = |text: &str, sign| -> Option<Vec<u64>> { text.split(sign).map(number).collect() };
    let (date, time) = (numbers(date, '-')?, numbers(whole, ':')?);
    let ([year, month, day], [hour, minute, second]) = (&date[..], &time[..]) else { return None };
    since_1970([*year, *month, *day], [*hour, *minute, *second])?.checked_add_signed(-offset)
}

/// `20261121T053502Z`, as signatures have it.
pub(crate) fn compact(seconds: u64) -> String {
    // The other way round of `since_1970`: "civil_from_days".
    let (days, time) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let years = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * years + years / 4 - years / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = years + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Seconds since 1970 of a date in a header, in any of its three forms (RFC 9110 5.6.7):
/// `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT`, `Sun Nov  6 08:49:37 1994`.
pub(crate) fn http(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.split([' ', '-', ',']).filter(|word| !word.is_empty()).collect();
    let (day, month, year, time) = match words[..] {
        [_, day, month, year, time, "GMT"] => (day, month, year, time),
        [_, month, day, time, year] => (day, month, year, time),
        _ => return None,
    };
    let names =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = names.iter().position(|name| *name == month)? as u64 + 1;
    let year = match (year.len(), number(year)?) {
        (4, year) => year,
        // The century that makes it no more than 50 years from now, for as long as that is this one.
        (2, year) if year < 76 => year + 2000,
        (2, year) => year + 1900,
        _ => return None,
    };
    let time: Vec<&str> = time.split(':').collect();
    let [hour, minute, second] = time[..] else { return None };
    since_1970([year, month, number(day)?], [number(hour)?, number(minute)?, number(second)?])
}

fn number(text: &str) -> Option<u64> {
    let digits = text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn since_1970([year, month, day]: [u64; 3], [hour, minute, second]: [u64; 3]) -> Option<u64> {
    if !(1970..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    // Days by the method of Howard Hinnant's "days_from_civil": years begin in March.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_services() {
        assert_eq!(rfc3339("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(rfc3339("2026-11-21T05:35:02Z"), Some(1_795_239_302));
        assert_eq!(rfc3339("2024-02-29T23:59:59.5Z"), Some(1_709_251_199));
        for bad in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "2026-01-01T00:00:00",
            "x-y-zT1:2:3Z",
            "+026-01-01T00:00:00Z",
        ] {
            assert_eq!(rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn dates_of_signatures_are_those_of_the_clock() {
        for (seconds, due) in [
            (0, "19700101T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (1_795_239_302, "20261121T053502Z"),
            (4_107_542_399, "21000228T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(compact(seconds), due);
        }
        assert_eq!(rfc3339("2026-11-21T06:35:02+01:00"), Some(1_795_239_302));
        assert_eq!(rfc3339("2026-11-21T05:05:02.5-00:30"), Some(1_795_239_302));
        assert_eq!(rfc3339("2026-11-21T05:05:02"), None);
    }

    #[test]
    fn dates_of_headers_in_three_forms() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(http(text), Some(784_111_777), "{text}");
        }
        assert_eq!(http("Sat, 21 Nov 2026 05:35:02 GMT"), Some(1_795_239_302));
        // As the formatter for RFC 1123 of Java's library writes days below ten.
        assert_eq!(http("Tue, 3 Jun 2008 11:05:30 GMT"), Some(1_212_491_130));
        for bad in [
            "",
            "3",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov +994 08:49:37 GMT",
        ] {
            assert_eq!(http(bad), None, "{bad}");
        }
    }
}
