use std::time::Duration;

/// Nanoseconds of each unit of time, longest first.
const TIMES: &[(&str, u64)] = &[
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Bytes of each unit of size, greatest first.
const SIZES: &[(&str, u64)] =
    &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a span of time: a number and a unit, `"4s"`, `"1.5h"`, `"250ms"`; also several,
/// `"1min 30s"`. Units are d, h, min, s, ms, us and ns. `None` if it is none, or too long.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut total = 0u64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let tail = tail.trim_start();
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let (_, nanos) = TIMES.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(scaled(number, *nanos)?)?;
        rest = tail.trim_start();
    }
    Some(Duration::from_nanos(total))
}

/// Writes a span as [`parse_duration`] reads it, in the longest unit that is exact.
pub fn show_duration(span: Duration) -> String {
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    if nanos == 0 {
        return "0s".to_string();
    }
    let unit = TIMES.iter().find(|(_, size)| nanos.is_multiple_of(*size));
    let (unit, size) = unit.expect("nanoseconds are exact");
    format!("{}{unit}", nanos / size)
}

/// Reads a number of bytes: `"64KiB"`, `"1.5MiB"`, `"100B"`; units are powers of 1,024. `None`
/// if it is none, or too great.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let (_, size) = SIZES.iter().find(|(name, _)| *name == unit.trim())?;
    scaled(number, *size)
}

/// Writes a number of bytes as [`parse_bytes`] reads it, in the greatest unit that is exact.
pub fn show_bytes(bytes: u64) -> String {
    let unit = SIZES.iter().find(|(_, size)| bytes.is_multiple_of(*size) && bytes >= *size);
    let (unit, size) = unit.unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / size)
}

/// A decimal number times `unit`, exact, with at most nine digits behind the point.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit);
    whole.checked_add((part / 10u128.pow(fraction.len() as u32)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_read_and_write() {
        let nanos = |text| parse_duration(text).map(|span| span.as_nanos());
        assert_eq!(nanos("4s"), Some(4_000_000_000));
        assert_eq!(nanos("1.5h"), Some(5_400_000_000_000));
        assert_eq!(nanos("1min 30s"), Some(90_000_000_000));
        assert_eq!(nanos(" 250 ms "), Some(250_000_000));
        for wrong in ["", "4", "s", "4x", "-4s", "1..5s", "4s5", "99999999999999h", ".5s"] {
            assert_eq!(nanos(wrong), None, "{wrong}");
        }
        for text in ["0s", "4s", "90s", "1h", "1500ms", "2d", "7ns", "10min"] {
            assert_eq!(show_duration(parse_duration(text).expect("valid")), text);
        }
        assert_eq!(parse_bytes("64KiB"), Some(65_536));
        assert_eq!(parse_bytes("1.5 MiB"), Some(1_572_864));
        assert_eq!(parse_bytes("64KB"), None);
        assert_eq!(parse_bytes("99999999TiB"), None);
        for text in ["0B", "100B", "64KiB", "1MiB", "1536KiB"] {
            assert_eq!(show_bytes(parse_bytes(text).expect("valid")), text);
        }
    }
}
