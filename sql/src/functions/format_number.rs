//! `to_char` of numbers and `to_number`, by Postgres' patterns: `FM9,999.00`, `S999`, `999PR`, `RN`, `9.99EEEE`, ...

use tidemark_common::{Error, Result, SqlState};

use super::format_time::ordinal_ending;

#[derive(Debug, Clone, PartialEq)]
enum Item {
    /// 9, or 0 when `zero`: shown even where there is no digit.
    Digit {
        zero: bool,
    },
    Group,
    Point,
    Sign,
    Minus,
    Plus,
    PlusMinus,
    Currency,
    Ordinal {
        upper: bool,
    },
    Text(String),
}

#[derive(Debug, Default)]
pub(super) struct Pattern {
    items: Vec<Item>,
    /// `FM`: no blanks, no trailing zeros.
    compact: bool,
    whole: usize,
    fraction: usize,
    /// Digits after `V`.
    shift: usize,
    brackets: bool,
    roman: Option<bool>,
    exponent: bool,
}

const PREFIXES: &[&str] =
    &["FM", "EEEE", "MI", "PL", "SG", "PR", "RN", "TH", "9", "0", ",", "G", ".", "D", "S", "L", "V"];

pub(super) fn compile(pattern: &str) -> Result<Pattern> {
    let mut p = Pattern::default();
    let (mut rest, mut after_point, mut after_v) = (pattern, false, false);
    while let Some(c) = rest.chars().next() {
        let found = PREFIXES.iter().find(|f| rest.get(..f.len()).is_some_and(|r| r.eq_ignore_ascii_case(f)));
        let Some(prefix) = found else {
            if c == '"' {
                let end = rest[1..].find('"').map_or(rest.len(), |e| e + 1);
                p.items.push(Item::Text(rest[1..end].to_string()));
                rest = rest.get(end + 1..).unwrap_or_default();
            } else {
                p.items.push(Item::Text(c.to_string()));
                rest = &rest[c.len_utf8()..];
            }
            continue;
        };
        let written = &rest[..prefix.len()];
        rest = &rest[prefix.len()..];
        match *prefix {
            "FM" => p.compact = true,
            "EEEE" => p.exponent = true,
            "PR" => p.brackets = true,
            "RN" => p.roman = Some(written == "rn"),
            "V" => after_v = true,
            "9" | "0" => {
                p.items.push(Item::Digit { zero: *prefix == "0" });
                p.fraction += usize::from(after_point);
                p.whole += usize::from(!after_point);
                p.shift += usize::from(after_v);
            }
            "." | "D" if after_point => {
                return Err(Error::syntax("multiple decimal points"));
            }
            "." | "D" => {
                after_point = true;
                p.items.push(Item::Point);
            }
            other => p.items.push(match other {
                "," | "G" => Item::Group,
                "S" => Item::Sign,
                "MI" => Item::Minus,
                "PL" => Item::Plus,
                "SG" => Item::PlusMinus,
                "L" => Item::Currency,
                _ => Item::Ordinal { upper: written == "TH" },
            }),
        }
    }
    Ok(p)
}

/// Digits before and after the point, without sign.
struct Decimal {
    negative: bool,
    whole: String,
    fraction: String,
}

impl Decimal {
    /// From plain decimal text, moved `shift` places up and rounded half away from zero to `places`.
    fn new(text: &str, shift: usize, places: usize) -> Self {
        let negative = text.starts_with('-');
        let (whole, fraction) =
            text.trim_start_matches('-').split_once('.').unwrap_or((text.trim_start_matches('-'), ""));
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b.wrapping_sub(b'0').min(9)).collect();
        let keep = whole.len() + shift + places;
        let up = digits.get(keep).is_some_and(|d| *d >= 5);
        digits.resize(keep, 0);
        if up {
            match digits.iter().rposition(|d| *d != 9) {
                Some(at) => {
                    digits[at] += 1;
                    digits[at + 1..].fill(0);
                }
                None => {
                    digits.fill(0);
                    digits.insert(0, 1);
                }
            }
        }
        let text: String = digits.iter().map(|d| char::from(b'0' + d)).collect();
        let (whole, fraction) = text.split_at(text.len() - places);
        let negative = negative && text.bytes().any(|b| b != b'0');
        Self { negative, whole: whole.trim_start_matches('0').to_string(), fraction: fraction.to_string() }
    }
}

/// `text` is a number in plain decimal form.
pub(super) fn print(p: &Pattern, text: &str) -> String {
    if let Some(lower) = p.roman {
        return roman(p, text, lower);
    }
    if p.exponent {
        return scientific(p, text);
    }
    Printer::new(p, Decimal::new(text, p.shift, p.fraction)).run()
}

/// Prints a number into its pattern from left to right.
struct Printer<'a> {
    p: &'a Pattern,
    number: Decimal,
    out: String,
    /// The sign stands just before the first thing shown; then it is taken.
    sign: Option<String>,
    /// Digit places before the point that are still to come.
    left: usize,
    started: bool,
    fraction_at: usize,
    in_fraction: bool,
    overflow: bool,
}

impl<'a> Printer<'a> {
    fn new(p: &'a Pattern, number: Decimal) -> Self {
        let has = |item: &Item| p.items.contains(item);
        let first_digit = p.items.iter().position(|i| matches!(i, Item::Digit { .. } | Item::Point));
        let leading = p.items.iter().position(|i| *i == Item::Sign).zip(first_digit).is_some_and(|(s, d)| s < d);
        let (plus, minus) = match (p.brackets, has(&Item::Sign)) {
            (true, _) => (" ", "<"),
            (_, true) if leading => ("+", "-"),
            (_, true) => ("", ""),
            _ if has(&Item::Minus) || has(&Item::PlusMinus) => ("", ""),
            _ => (" ", "-"),
        };
        let sign = if number.negative { minus } else { plus };
        let sign = if p.compact { sign.trim() } else { sign };
        Self {
            overflow: number.whole.len() > p.whole,
            sign: Some(sign.to_string()),
            left: p.whole,
            out: String::new(),
            started: false,
            fraction_at: 0,
            in_fraction: false,
            number,
            p,
        }
    }

    fn start(&mut self) {
        self.out.push_str(&self.sign.take().unwrap_or_default());
        self.started = true;
    }

    fn blank(&mut self) {
        if !self.p.compact {
            self.out.push(' ');
        }
    }

    fn run(mut self) -> String {
        // In compact form zeros at the end go, down to the last 0 of the pattern.
        let keep = self.fraction_digits_kept();
        for (i, item) in self.p.items.iter().enumerate() {
            match item {
                Item::Digit { .. } if self.in_fraction => {
                    self.fraction_at += 1;
                    if self.fraction_at <= keep || !self.p.compact {
                        let digit = self.number.fraction.as_bytes().get(self.fraction_at - 1).copied().unwrap_or(b'0');
                        self.out.push(if self.overflow { '#' } else { char::from(digit) });
                    }
                }
                Item::Digit { zero } => self.whole_digit(*zero, keep),
                Item::Group if self.started => self.out.push(','),
                Item::Group => self.blank(),
                Item::Point => {
                    if !self.started {
                        self.start();
                    }
                    self.in_fraction = true;
                    self.out.push('.');
                }
                Item::Sign if i == 0 || !self.p.items[..i].iter().any(|i| matches!(i, Item::Digit { .. })) => {}
                Item::Sign | Item::PlusMinus => self.out.push(if self.number.negative { '-' } else { '+' }),
                Item::Minus if self.number.negative => self.out.push('-'),
                Item::Plus if !self.number.negative => self.out.push('+'),
                Item::Minus | Item::Plus | Item::Currency => self.blank(),
                Item::Ordinal { upper } if !self.number.negative && self.p.fraction == 0 => {
                    let ending = ordinal_ending(&self.number.whole, *upper);
                    self.out.push_str(ending);
                }
                Item::Ordinal { .. } => {}
                Item::Text(text) => self.out.push_str(text),
            }
        }
        if self.p.brackets {
            match self.number.negative {
                true => self.out.push('>'),
                false => self.blank(),
            }
        }
        self.out
    }

    fn fraction_digits_kept(&self) -> usize {
        let places = self.p.items.iter().skip_while(|i| **i != Item::Point).filter(|i| matches!(i, Item::Digit { .. }));
        let forced =
            places.enumerate().filter(|(_, i)| **i == Item::Digit { zero: true }).last().map_or(0, |(n, _)| n + 1);
        self.number.fraction.trim_end_matches('0').len().max(forced)
    }

    fn whole_digit(&mut self, zero: bool, fraction_kept: usize) {
        let place = self.left;
        self.left -= 1;
        let digits = &self.number.whole;
        let digit = digits.len().checked_sub(place).map(|i| char::from(digits.as_bytes()[i]));
        // A zero is shown where nothing else would be.
        let lone = place == 1 && digits.is_empty() && (self.p.fraction == 0 || (self.p.compact && fraction_kept == 0));
        if digit.is_some() || zero || self.started || lone || self.overflow {
            if !self.started {
                self.start();
            }
            self.out.push(if self.overflow { '#' } else { digit.unwrap_or('0') });
        } else {
            self.blank();
        }
    }
}

const ROMAN: &[(u32, &str)] = &[
    (1000, "M"),
    (900, "CM"),
    (500, "D"),
    (400, "CD"),
    (100, "C"),
    (90, "XC"),
    (50, "L"),
    (40, "XL"),
    (10, "X"),
    (9, "IX"),
    (5, "V"),
    (4, "IV"),
    (1, "I"),
];

fn roman(p: &Pattern, text: &str, lower: bool) -> String {
    let number = Decimal::new(text, 0, 0);
    let n: u32 = if number.negative { 0 } else { number.whole.parse().unwrap_or(0) };
    if !(1..=3999).contains(&n) {
        return "#".repeat(15);
    }
    let mut rest = n;
    let mut out = String::new();
    for (value, letters) in ROMAN {
        while rest >= *value {
            out.push_str(letters);
            rest -= value;
        }
    }
    let out = if lower { out.to_lowercase() } else { out };
    if p.compact { out } else { format!("{out:>15}") }
}

fn scientific(p: &Pattern, text: &str) -> String {
    let negative = text.starts_with('-');
    let (whole, fraction) = text.trim_start_matches('-').split_once('.').unwrap_or((text.trim_start_matches('-'), ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0');
    let mut exponent = whole.len() as i64 - (digits.len() - significant.len()) as i64 - 1;
    let (first, rest) = significant.split_at(significant.len().min(1));
    let mut mantissa = Decimal::new(&format!("{}.{rest}", if first.is_empty() { "0" } else { first }), 0, p.fraction);
    if first.is_empty() {
        exponent = 0;
    } else if mantissa.whole.len() > 1 {
        mantissa.whole.truncate(1);
        exponent += 1;
    }
    let sign = match (negative, p.items.contains(&Item::Sign), p.compact) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (_, _, true) => "",
        _ => " ",
    };
    let point = if p.fraction > 0 { "." } else { "" };
    let whole = if mantissa.whole.is_empty() { "0" } else { &mantissa.whole };
    let exponent_sign = if exponent < 0 { '-' } else { '+' };
    format!("{sign}{whole}{point}{}e{exponent_sign}{:02}", mantissa.fraction, exponent.abs())
}

/// The number in `text`, as plain decimal text.
pub(super) fn read(p: &Pattern, text: &str) -> Result<String> {
    let (mut digits, mut negative, mut point) = (String::new(), false, false);
    let mut places = p.whole + p.fraction;
    for c in text.chars() {
        match c {
            '0'..='9' if places > 0 => {
                digits.push(c);
                places -= 1;
            }
            '.' if p.items.contains(&Item::Point) && !point => {
                point = true;
                digits.push('.');
            }
            '-' | '<' => negative = true,
            _ => {}
        }
    }
    if !digits.contains(|c: char| c.is_ascii_digit()) {
        let message = format!("invalid input syntax for type numeric: \"{text}\"");
        return Err(Error::new(SqlState::InvalidTextRepresentation, message));
    }
    let exponent = if p.shift > 0 { format!("e-{}", p.shift) } else { String::new() };
    Ok(format!("{}{digits}{exponent}", if negative { "-" } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_postgres_prints_them() {
        let table = [
            ("1234", "FM9,999", "1,234"),
            ("12", "9,999", "    12"),
            ("12", "0,000", " 0,012"),
            ("-12", "9,999", "   -12"),
            ("-0.5", "9.9", " -.5"),
            ("-0.5", "FM0.9", "-0.5"),
            ("0.5", "FM9.9", ".5"),
            ("5", "9PR", " 5 "),
            ("-5", "FM9PR", "<5>"),
            ("123", "FM999PL", "123+"),
            ("1.5", "S9.9", "+1.5"),
            ("-1.5", "9.9S", "1.5-"),
            ("12", "FMS999", "+12"),
            ("12", "999S", " 12+"),
            ("1000000000000000", "9.99EEEE", " 1.00e+15"),
            ("1234.56", "FM9,999.00", "1,234.56"),
            ("100", "FM999.99", "100."),
            ("12345", "9,999", " #,###"),
            ("-12345.6", "999.9", "-###.#"),
            ("0", "9.9", "  .0"),
            ("0", "FM9.9", "0."),
            ("9.99", "9.9", " #.#"),
            ("12.3", "PL99.9", "+ 12.3"),
            ("12.3", "99.9MI", "12.3 "),
            ("-7", "090", "-007"),
            ("1.1", "90.99", "  1.10"),
            ("12", "L99", "  12"),
            ("12", "99%", " 12%"),
        ];
        for (number, pattern, expected) in table {
            assert_eq!(print(&compile(pattern).unwrap(), number), expected, "{number} in {pattern}");
        }
    }
}
