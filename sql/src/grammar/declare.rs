//! Cursors of SQL: `DECLARE`, `FETCH`, `MOVE`, `CLOSE`.

use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemark_common::{Error, Result, SqlState};

use super::cursor::Cursor;
use super::{options, sink, view};
use crate::ast::{Declare, DeclareOf, Fetch, FetchDirection};

/// What a query begins with, but for a bracket.
const QUERIES: [&str; 4] = ["SELECT", "WITH", "VALUES", "TABLE"];

/// After `DECLARE`.
pub(super) fn declare(c: &mut Cursor) -> Result<Declare> {
    let name = c.ident()?;
    let (mut binary, mut scroll, mut sensitive) = (false, None, None);
    loop {
        let position = c.position();
        if c.accept(&["BINARY"]) {
            binary = true;
        } else if c.accept(&["SCROLL"]) {
            settle(&mut scroll, true, "SCROLL and NO SCROLL", position)?;
        } else if c.accept(&["NO", "SCROLL"]) {
            settle(&mut scroll, false, "SCROLL and NO SCROLL", position)?;
        } else if let Some(word) = c.accept_one_of(&["INSENSITIVE", "ASENSITIVE"]) {
            // A cursor reads the snapshot of its transaction, so it is always the former.
            settle(&mut sensitive, word == "INSENSITIVE", "INSENSITIVE and ASENSITIVE", position)?;
        } else {
            break;
        }
    }
    c.expect(&["CURSOR"])?;
    let hold = c.accept(&["WITH", "HOLD"]);
    if !hold && c.is(&["WITHOUT"]) {
        c.expect(&["WITHOUT", "HOLD"])?;
    }
    c.expect(&["FOR"])?;
    let of = if c.accept(&["SUBSCRIBE"]) {
        DeclareOf::Subscribe(sink::subscribe(c)?)
    } else if c.word(0).is_none_or(|word| !QUERIES.contains(&word.as_str())) && *c.peek(0) != Token::LParen {
        return Err(c.unexpected("a query"));
    } else {
        DeclareOf::Query(view::query(&c.within(c.at(), c.end()))?.0)
    };
    Ok(Declare { name, text: c.tokens.text.to_string(), binary, scroll, hold, of })
}

fn settle(option: &mut Option<bool>, value: bool, both: &str, position: usize) -> Result<()> {
    if option.replace(value).is_some_and(|before| before != value) {
        let error = Error::new(SqlState::InvalidCursorDefinition, format!("cannot specify both {both}"));
        return Err(error.with_position(position));
    }
    Ok(())
}

/// After `FETCH` or `MOVE`.
pub(super) fn fetch(c: &mut Cursor, moves: bool) -> Result<Fetch> {
    // A lone word is a name, whatever it says.
    let direction = if c.at() + 1 == c.end() { FetchDirection::Forward(Some(1)) } else { direction(c)? };
    c.accept_one_of(&["FROM", "IN"]);
    let name = c.ident()?;
    let options = if c.accept(&["WITH"]) { options::parenthesized(c)? } else { vec![] };
    c.expect_end()?;
    Ok(Fetch { name, direction, moves, options })
}

fn direction(c: &mut Cursor) -> Result<FetchDirection> {
    use FetchDirection::{Absolute, Backward, Forward, Relative};
    Ok(
        match c.accept_one_of(&["NEXT", "PRIOR", "FIRST", "LAST", "ABSOLUTE", "RELATIVE", "ALL", "FORWARD", "BACKWARD"])
        {
            Some("NEXT") => Forward(Some(1)),
            Some("PRIOR") => Backward(Some(1)),
            Some("FIRST") => Absolute(1),
            Some("LAST") => Absolute(-1),
            Some("ABSOLUTE") => Absolute(number(c)?),
            Some("RELATIVE") => Relative(number(c)?),
            Some("ALL") => Forward(None),
            Some("BACKWARD") => Backward(count(c)?),
            // FORWARD, or nothing.
            _ => Forward(count(c)?),
        },
    )
}

/// `ALL`, a number, or nothing for one.
fn count(c: &mut Cursor) -> Result<Option<i64>> {
    if c.accept(&["ALL"]) {
        return Ok(None);
    }
    match c.peek(0) {
        Token::Number(..) | Token::Minus | Token::Plus => number(c).map(Some),
        _ => Ok(Some(1)),
    }
}

/// A whole number of 32 bits, as Postgres has it.
fn number(c: &mut Cursor) -> Result<i64> {
    let negative = c.accept_token(&Token::Minus);
    if !negative {
        c.accept_token(&Token::Plus);
    }
    let Token::Number(digits, _) = c.peek(0) else { return Err(c.unexpected("a number")) };
    let Ok(number) = digits.parse::<i32>() else { return Err(c.unexpected("a whole number of 32 bits")) };
    c.advance();
    Ok(if negative { -i64::from(number) } else { i64::from(number) })
}

/// After `CLOSE`. `None`: all.
pub(super) fn close(c: &mut Cursor) -> Result<Option<Ident>> {
    let name = if c.accept(&["ALL"]) { None } else { Some(c.ident()?) };
    c.expect_end()?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ast::Statement;
    use crate::grammar::parse_one;

    fn fetched(sql: &str) -> (String, FetchDirection, bool) {
        match parse_one(sql).unwrap().statement {
            Statement::Fetch(f) => (f.name.value, f.direction, f.moves),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn directions() {
        use FetchDirection::{Absolute, Backward, Forward, Relative};
        let table = [
            ("c", Forward(Some(1))),
            ("FROM c", Forward(Some(1))),
            ("NEXT c", Forward(Some(1))),
            ("NEXT IN c", Forward(Some(1))),
            ("5 c", Forward(Some(5))),
            ("-5 FROM c", Forward(Some(-5))),
            ("ALL c", Forward(None)),
            ("FORWARD c", Forward(Some(1))),
            ("FORWARD 0 FROM c", Forward(Some(0))),
            ("FORWARD ALL IN c", Forward(None)),
            ("PRIOR c", Backward(Some(1))),
            ("BACKWARD FROM c", Backward(Some(1))),
            ("BACKWARD +7 c", Backward(Some(7))),
            ("BACKWARD ALL c", Backward(None)),
            ("FIRST FROM c", Absolute(1)),
            ("LAST c", Absolute(-1)),
            ("ABSOLUTE -3 c", Absolute(-3)),
            ("RELATIVE 0 c", Relative(0)),
        ];
        for (text, direction) in table {
            assert_eq!(fetched(&format!("FETCH {text}")), ("c".into(), direction, false), "{text}");
            assert_eq!(fetched(&format!("move {text}")), ("c".into(), direction, true), "{text}");
        }
        assert_eq!(fetched("FETCH next").0, "next");
        for wrong in
            ["FETCH", "FETCH 1", "FETCH 1.5 c", "FETCH 9999999999 c", "FETCH ABSOLUTE c", "FETCH 1 c d", "MOVE FROM"]
        {
            assert_eq!(parse_one(wrong).unwrap_err().code(), "42601", "{wrong}");
        }
    }

    #[test]
    fn declarations() {
        let declared = |sql: &str| match parse_one(sql).unwrap().statement {
            Statement::Declare(d) => (d.binary, d.scroll, d.hold),
            other => panic!("{other:?}"),
        };
        assert_eq!(declared("DECLARE c CURSOR FOR SELECT 1"), (false, None, false));
        assert_eq!(
            declared("DECLARE c BINARY INSENSITIVE SCROLL CURSOR WITH HOLD FOR VALUES (1)"),
            (true, Some(true), true)
        );
        assert_eq!(declared("DECLARE c NO SCROLL BINARY CURSOR WITHOUT HOLD FOR TABLE t"), (true, Some(false), false));
        assert_eq!(parse_one("DECLARE c SCROLL NO SCROLL CURSOR FOR SELECT 1").unwrap_err().code(), "42P11");
        for wrong in [
            "DECLARE c FOR SELECT 1",
            "DECLARE c CURSOR FOR",
            "DECLARE c CURSOR FOR SHOW x",
            "DECLARE CURSOR FOR SELECT 1",
        ] {
            assert_eq!(parse_one(wrong).unwrap_err().code(), "42601", "{wrong}");
        }
        let subscribed = parse_one("DECLARE c CURSOR FOR SUBSCRIBE v WITH (snapshot = false)").unwrap().statement;
        assert!(matches!(subscribed, Statement::Declare(Declare { of: DeclareOf::Subscribe(_), .. })));
    }
}
