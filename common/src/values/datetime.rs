//! Dates and times: the calendar, and how Postgres prints them in DateStyle ISO.
//!
//! The largest and the smallest integer stand for `infinity` and `-infinity`, as they do in Postgres.

use bytes::{BufMut, BytesMut};

use super::Style;

pub(super) const MICROS_PER_SECOND: i64 = 1_000_000;
pub(super) const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// Days from 1970-01-01 to 2000-01-01, where Postgres counts from.
pub(super) const POSTGRES_EPOCH_DAYS: i32 = 10_957;
pub(super) const POSTGRES_EPOCH_MICROS: i64 = POSTGRES_EPOCH_DAYS as i64 * MICROS_PER_DAY;

const DAYS_PER_400_YEARS: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const MARCH_0_TO_1970: i64 = 719_468;

/// A date of the proleptic Gregorian calendar; year 0 is 1 BC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Civil {
    pub year: i64,
    pub month: u32,
    pub day: u32,
}

/// Years are counted from March here, so that the leap day is a year's last.
pub(super) fn civil_from_days(days_since_1970: i64) -> Civil {
    let days = days_since_1970 + MARCH_0_TO_1970;
    let era = days.div_euclid(DAYS_PER_400_YEARS);
    let day_of_era = days.rem_euclid(DAYS_PER_400_YEARS);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    Civil { year, month: month as u32, day: day as u32 }
}

pub(super) fn days_from_civil(date: Civil) -> i64 {
    let year = date.year - i64::from(date.month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = i64::from((date.month + 9) % 12);
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(date.day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_PER_400_YEARS + day_of_era - MARCH_0_TO_1970
}

pub(super) fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

fn write_two(value: u32, out: &mut BytesMut) {
    out.put_slice(&[b'0' + (value / 10 % 10) as u8, b'0' + (value % 10) as u8]);
}

/// `2024-01-31`; " BC" comes at the very end, after time and zone.
fn write_civil(date: Civil, out: &mut BytesMut) {
    let year = if date.year > 0 { date.year } else { 1 - date.year };
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(year);
    out.put_bytes(b'0', 4usize.saturating_sub(digits.len()));
    out.put_slice(digits.as_bytes());
    out.put_u8(b'-');
    write_two(date.month, out);
    out.put_u8(b'-');
    write_two(date.day, out);
}

/// `.5`, `.000001`; nothing for zero.
pub(super) fn write_fraction(micros: u32, out: &mut BytesMut) {
    if micros == 0 {
        return;
    }
    let mut digits = [b'0'; 6];
    let mut rest = micros;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let end = digits.iter().rposition(|d| *d != b'0').map_or(0, |at| at + 1);
    out.put_u8(b'.');
    out.put_slice(&digits[..end]);
}

/// `04:05:06.7`, and `24:00:00`.
pub(super) fn write_time(micros: i64, out: &mut BytesMut) {
    let seconds = (micros / MICROS_PER_SECOND) as u32;
    write_two(seconds / 3600, out);
    out.put_u8(b':');
    write_two(seconds / 60 % 60, out);
    out.put_u8(b':');
    write_two(seconds % 60, out);
    write_fraction((micros % MICROS_PER_SECOND) as u32, out);
}

pub(super) fn write_date(days: i32, out: &mut BytesMut) {
    match days {
        i32::MAX => out.put_slice(b"infinity"),
        i32::MIN => out.put_slice(b"-infinity"),
        days => {
            let date = civil_from_days(i64::from(days));
            write_civil(date, out);
            if date.year <= 0 {
                out.put_slice(b" BC");
            }
        }
    }
}

/// `separator`: a blank as Postgres prints, `T` in JSON.
pub(super) fn write_timestamp(micros: i64, separator: u8, out: &mut BytesMut) {
    write_instant(micros, None, separator, out);
}

pub(super) fn write_timestamptz(micros: i64, style: &Style, separator: u8, out: &mut BytesMut) {
    write_instant(micros, Some(style), separator, out);
}

fn write_instant(micros: i64, zone: Option<&Style>, separator: u8, out: &mut BytesMut) {
    match micros {
        i64::MAX => return out.put_slice(b"infinity"),
        i64::MIN => return out.put_slice(b"-infinity"),
        _ => {}
    }
    let offset = zone.map_or(0, |style| style.offset_at(micros));
    // In two parts, for the sum may not fit at the ends of the range.
    let shifted = micros.rem_euclid(MICROS_PER_DAY) + i64::from(offset) * MICROS_PER_SECOND;
    let days = micros.div_euclid(MICROS_PER_DAY) + shifted.div_euclid(MICROS_PER_DAY);
    let date = civil_from_days(days);
    write_civil(date, out);
    out.put_u8(separator);
    write_time(shifted.rem_euclid(MICROS_PER_DAY), out);
    if zone.is_some() {
        write_offset(offset, out);
    }
    if date.year <= 0 {
        out.put_slice(b" BC");
    }
}

/// `+00`, `+05:30`, `+05:53:28`
fn write_offset(seconds: i32, out: &mut BytesMut) {
    out.put_u8(if seconds < 0 { b'-' } else { b'+' });
    let seconds = seconds.unsigned_abs();
    write_two(seconds / 3600, out);
    if !seconds.is_multiple_of(3600) {
        out.put_u8(b':');
        write_two(seconds / 60 % 60, out);
    }
    if !seconds.is_multiple_of(60) {
        out.put_u8(b':');
        write_two(seconds % 60, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_goes_both_ways() {
        let mut days = -2_000_000_000i64;
        while days < 2_000_000_000 {
            let date = civil_from_days(days);
            assert_eq!(days_from_civil(date), days);
            assert!(date.day >= 1 && date.day <= days_in_month(date.year, date.month));
            days += 1_234_567;
        }
        assert_eq!(civil_from_days(0), Civil { year: 1970, month: 1, day: 1 });
        assert_eq!(civil_from_days(10_957), Civil { year: 2000, month: 1, day: 1 });
        assert_eq!(civil_from_days(19_782), Civil { year: 2024, month: 2, day: 29 });
    }
}
