//! Where the statements of a script begin and end, before any of them is parsed.
//!
//! ```text
//!   "select ';'; /* ; */ select $$;$$"  ──▶  [select ';']  [select $$;$$]
//! ```
//!
//! One pass over the characters, by Postgres' lexical rules. It also bounds what the parser may be asked to do: the number of
//! tokens, the depth of brackets, and the length of operator chains (`a + b + c ...` becomes a tree as deep as the
//! chain is long, and a tree too deep cannot even be dropped). So all that follows may recurse without fear.

use std::ops::Range;

use tidemark_common::{Error, Result, SqlState};

/// Tokens of one statement, blanks counted.
pub const MAX_TOKENS: usize = 4_000_000;
/// Brackets open at one time.
pub const MAX_NESTING: usize = 128;
/// Operators in a row without a comma or bracket between; what AND and OR join may be longer, see [`super::balance`].
pub const MAX_CHAIN: usize = 1_000;
/// ANDs and ORs in a row.
pub const MAX_CONDITIONS: usize = 20_000;

/// Brackets open at one time in FROM that start with another bracket. `((` there may begin a subquery or a join in brackets, and
/// the parser tries both: its work doubles with each.
pub const MAX_JOIN_BRACKETS: usize = 12;

/// One statement's place in the script, without surrounding blanks and comments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub bytes: Range<usize>,
    /// Characters of the script before it.
    pub offset: usize,
    /// ANDs and ORs in its longest chain.
    pub conditions: usize,
}

/// The pieces between semicolons that hold anything.
pub(super) fn split(script: &str) -> Result<Vec<Piece>> {
    let mut scanner = Scanner {
        rest: script.char_indices().peekable(),
        script,
        position: 0,
        pieces: Vec::new(),
        current: None,
        tokens: 0,
        levels: vec![Level::default()],
        conditions: 0,
        previous: Previous::Other,
    };
    while scanner.step()? {}
    scanner.finish_piece();
    Ok(scanner.pieces)
}

/// Operators seen since the last comma, at one depth of brackets.
#[derive(Default, Clone, Copy)]
struct Level {
    operators: usize,
    conditions: usize,
    set_operations: usize,
    /// The bracket around this level may hold a subquery or a join.
    in_from: bool,
    /// And its first token is another such bracket.
    starts_with_bracket: bool,
}

/// What stands before a token, as far as it matters to a bracket.
#[derive(Clone, Copy, PartialEq)]
enum Previous {
    FromOrJoin,
    Bracket,
    Other,
}

struct Scanner<'a> {
    rest: std::iter::Peekable<std::str::CharIndices<'a>>,
    script: &'a str,
    /// Characters consumed.
    position: usize,
    pieces: Vec<Piece>,
    /// Start (byte, character) and end (byte) of the piece being read.
    current: Option<(usize, usize, usize)>,
    tokens: usize,
    levels: Vec<Level>,
    conditions: usize,
    previous: Previous,
}

impl Scanner<'_> {
    /// Consumes one token. False at the end.
    fn step(&mut self) -> Result<bool> {
        let (start_byte, start) = (self.byte(), self.position);
        let Some(c) = self.next() else { return Ok(false) };
        self.tokens += 1;
        if self.tokens > MAX_TOKENS {
            return Err(limit(start, "statement is too long")
                .with_detail(format!("A statement may have {MAX_TOKENS} tokens."))
                .with_hint("Load rows with COPY, or split the statement."));
        }
        match c {
            '\0' => {
                return Err(Error::syntax("invalid byte sequence for encoding \"UTF8\": 0x00").with_position(start + 1));
            }
            ';' => {
                self.finish_piece();
                return Ok(true);
            }
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => return Ok(true),
            '-' if self.peek() == Some('-') => {
                self.skip_while(|c| c != '\n' && c != '\r');
                return Ok(true);
            }
            '/' if self.peek() == Some('*') => {
                self.comment(start)?;
                return Ok(true);
            }
            '\'' => self.quoted('\'', false, start)?,
            '"' => self.quoted('"', false, start)?,
            '$' => self.dollar(start_byte, start)?,
            '(' | '[' | '{' => self.open(start)?,
            ')' | ']' | '}' => self.close(),
            ',' => self.comma(),
            c if is_word_start(c) => self.word(start_byte, start)?,
            c if c.is_ascii_digit() => self.skip_while(is_word_part),
            '.' => {}
            _ => {
                self.rest_of_operator();
                self.operator(start)?;
            }
        }
        self.previous = match c {
            '(' => Previous::Bracket,
            // A list in FROM goes on after a comma; elsewhere the guess does no harm.
            ',' => Previous::FromOrJoin,
            c if is_word_start(c) && self.is_from_or_join(start_byte) => Previous::FromOrJoin,
            _ => Previous::Other,
        };
        let (byte, character) = self.current.map_or((start_byte, start), |(byte, character, _)| (byte, character));
        self.current = Some((byte, character, self.byte()));
        Ok(true)
    }

    fn finish_piece(&mut self) {
        if let Some((start, offset, end)) = self.current.take() {
            self.pieces.push(Piece { bytes: start..end, offset, conditions: self.conditions });
        }
        self.tokens = 0;
        self.conditions = 0;
        self.levels = vec![Level::default()];
        self.previous = Previous::Other;
    }

    fn quoted(&mut self, quote: char, backslash: bool, start: usize) -> Result<()> {
        while let Some(c) = self.next() {
            if c == '\0' {
                return Err(
                    Error::syntax("invalid byte sequence for encoding \"UTF8\": 0x00").with_position(self.position)
                );
            }
            if c == '\\' && backslash {
                self.next();
            } else if c == quote {
                if self.peek() != Some(quote) {
                    return Ok(());
                }
                self.next();
            }
        }
        let (what, hint) = match quote {
            '\'' => ("string", "A string ends with a single quote; write two of them for one inside it: 'it''s'."),
            _ => ("identifier", "A quoted name ends with a double quote; write two of them for one inside it."),
        };
        Err(unterminated(&format!("unterminated quoted {what}"), self.script, start).with_hint(hint))
    }

    /// `$tag$ ... $tag$`, or a parameter such as `$1`.
    fn dollar(&mut self, start_byte: usize, start: usize) -> Result<()> {
        let after = &self.script[start_byte + 1..];
        let Some(tag_length) = after.find('$') else {
            self.skip_while(is_word_part);
            return Ok(());
        };
        let tag = &after[..tag_length];
        if !tag.chars().all(|c| is_word_part(c) && c != '$') || tag.starts_with(|c: char| c.is_ascii_digit()) {
            self.skip_while(|c| is_word_part(c) && c != '$');
            return Ok(());
        }
        let delimiter = &self.script[start_byte..start_byte + tag_length + 2];
        let body = start_byte + delimiter.len();
        let Some(length) = self.script[body..].find(delimiter) else {
            return Err(unterminated("unterminated dollar-quoted string", self.script, start)
                .with_hint(format!("The string ends with {delimiter}.")));
        };
        self.skip_to(body + length + delimiter.len());
        Ok(())
    }

    fn comment(&mut self, start: usize) -> Result<()> {
        self.next();
        let mut depth = 1;
        while let Some(c) = self.next() {
            match (c, self.peek()) {
                ('*', Some('/')) => {
                    self.next();
                    depth -= 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                ('/', Some('*')) => {
                    self.next();
                    depth += 1;
                }
                _ => {}
            }
        }
        Err(unterminated("unterminated /* comment", self.script, start).with_hint("A comment ends with */."))
    }

    fn word(&mut self, start_byte: usize, start: usize) -> Result<()> {
        self.skip_while(is_word_part);
        let word = &self.script[start_byte..self.byte()];
        if self.peek() == Some('\'') && ["e", "b", "x", "n"].iter().any(|p| word.eq_ignore_ascii_case(p)) {
            self.next();
            return self.quoted('\'', word.eq_ignore_ascii_case("e"), start);
        }
        self.count_word(word, start)
    }

    fn count_word(&mut self, word: &str, start: usize) -> Result<()> {
        const OPERATORS: [&str; 15] = [
            "NOT", "IS", "IN", "LIKE", "ILIKE", "SIMILAR", "BETWEEN", "COLLATE", "AT", "ISNULL", "NOTNULL", "DIV",
            "XOR", "OVERLAPS", "RLIKE",
        ];
        const BREAKS: [&str; 12] =
            ["WHEN", "THEN", "ELSE", "FROM", "WHERE", "ON", "BY", "HAVING", "AS", "SET", "VALUES", "LIMIT"];
        if word.len() > 9 {
            return Ok(());
        }
        let word = word.to_ascii_uppercase();
        let level = self.level();
        match word.as_str() {
            "AND" | "OR" => {
                // What AND and OR join starts anew.
                level.operators = 0;
                level.conditions += 1;
                let conditions = level.conditions;
                self.conditions = self.conditions.max(conditions);
                if conditions > MAX_CONDITIONS {
                    return Err(limit(start, "too many conditions in a row")
                        .with_detail(format!("At most {MAX_CONDITIONS} conditions can be joined by AND and OR."))
                        .with_hint("Use IN (...), or join with a table of the values."));
                }
            }
            "UNION" | "INTERSECT" | "EXCEPT" => {
                level.operators = 0;
                level.conditions = 0;
                level.set_operations += 1;
                if level.set_operations > MAX_CHAIN {
                    return Err(limit(start, "too many set operations in a row")
                        .with_hint("Use VALUES (...), (...) for constant rows."));
                }
            }
            "SELECT" | "CASE" => level.operators = 0,
            w if OPERATORS.contains(&w) => return self.operator(start),
            w if BREAKS.contains(&w) => {
                level.operators = 0;
                level.conditions = 0;
            }
            _ => {}
        }
        Ok(())
    }

    fn operator(&mut self, start: usize) -> Result<()> {
        let level = self.level();
        level.operators += 1;
        if level.operators > MAX_CHAIN {
            return Err(limit(start, "expression is too long")
                .with_detail(format!("At most {MAX_CHAIN} operators can follow one another."))
                .with_hint("Split the expression, or use an array and a function over it."));
        }
        Ok(())
    }

    /// The characters of one operator: `||`, `::`, `->>`.
    fn rest_of_operator(&mut self) {
        while self.peek().is_some_and(|c| "+-*/<>=~!@#%^&|`?:".contains(c)) {
            let rest = &self.script[self.byte()..];
            if rest.starts_with("--") || rest.starts_with("/*") {
                return;
            }
            self.next();
        }
    }

    fn comma(&mut self) {
        let level = self.level();
        *level = Level { in_from: level.in_from, starts_with_bracket: level.starts_with_bracket, ..Level::default() };
    }

    fn is_from_or_join(&mut self, start_byte: usize) -> bool {
        let word = &self.script[start_byte..self.byte()];
        ["FROM", "JOIN", "LATERAL"].iter().any(|known| word.eq_ignore_ascii_case(known))
    }

    fn open(&mut self, start: usize) -> Result<()> {
        // A subscript and a call are steps of a chain as well: a[1][2], f(x)(y).
        self.operator(start)?;
        if self.levels.len() > MAX_NESTING {
            return Err(limit(start, "statement is nested too deeply")
                .with_detail(format!("At most {MAX_NESTING} brackets can be open at one time.")));
        }
        let nested = self.previous == Previous::Bracket && self.level().in_from;
        if nested {
            self.level().starts_with_bracket = true;
            if self.levels.iter().filter(|level| level.starts_with_bracket).count() > MAX_JOIN_BRACKETS {
                return Err(limit(start, "too many brackets in FROM")
                    .with_hint("Leave out brackets around brackets, or name the subqueries in WITH."));
            }
        }
        let in_from = nested || self.previous == Previous::FromOrJoin;
        self.levels.push(Level { in_from, ..Level::default() });
        Ok(())
    }

    fn close(&mut self) {
        if self.levels.len() > 1 {
            self.levels.pop();
        }
    }

    fn level(&mut self) -> &mut Level {
        self.levels.last_mut().expect("the outermost level is never popped")
    }

    fn next(&mut self) -> Option<char> {
        let (_, c) = self.rest.next()?;
        self.position += 1;
        Some(c)
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().map(|(_, c)| *c)
    }

    fn byte(&mut self) -> usize {
        self.rest.peek().map_or(self.script.len(), |(byte, _)| *byte)
    }

    fn skip_while(&mut self, accept: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&accept) {
            self.next();
        }
    }

    fn skip_to(&mut self, byte: usize) {
        while self.byte() < byte {
            self.next();
        }
    }
}

fn is_word_start(c: char) -> bool {
    c.is_alphabetic() || c == '_' || !c.is_ascii()
}

fn is_word_part(c: char) -> bool {
    is_word_start(c) || c.is_ascii_digit() || c == '$'
}

fn limit(start: usize, message: &str) -> Error {
    Error::new(SqlState::ProgramLimitExceeded, message).with_position(start + 1)
}

/// As Postgres: the error is at the opening quote, and shows what follows it.
fn unterminated(message: &str, script: &str, start: usize) -> Error {
    let near: String = script.chars().skip(start).take(40).collect();
    Error::syntax(format!("{message} at or near \"{near}\"")).with_position(start + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(script: &str) -> Vec<&str> {
        split(script).unwrap().into_iter().map(|piece| &script[piece.bytes]).collect()
    }

    #[test]
    fn semicolons_in_quotes_and_comments_do_not_split() {
        assert_eq!(pieces("select ';'; select 2"), ["select ';'", "select 2"]);
        assert_eq!(pieces("select 'it''s;'; select 2;"), ["select 'it''s;'", "select 2"]);
        assert_eq!(pieces(r"select E'\';'; select 2"), [r"select E'\';'", "select 2"]);
        assert_eq!(pieces(r"select '\'; select 2"), [r"select '\'", "select 2"]);
        assert_eq!(pieces("select \"a;\"\"b\"; x"), ["select \"a;\"\"b\"", "x"]);
        assert_eq!(pieces("a /* ; /* ; */ ; */ b; c"), ["a /* ; /* ; */ ; */ b", "c"]);
        assert_eq!(pieces("a -- ;\n b; c"), ["a -- ;\n b", "c"]);
        assert_eq!(pieces("a $$;$$; b $x$ $$;$$ $x$; c $1;d"), ["a $$;$$", "b $x$ $$;$$ $x$", "c $1", "d"]);
        assert_eq!(pieces("a$b$; c"), ["a$b$", "c"]);
    }

    #[test]
    fn blanks_and_comments_around_a_statement_are_not_its_text() {
        assert_eq!(pieces(" -- first\n select 1 -- end\n ; /* x */ ; ;"), ["select 1"]);
        assert!(pieces(" ;; -- nothing").is_empty());
        let found = split("é; ü 1").unwrap();
        assert_eq!((found[1].offset, found[1].bytes.clone()), (3, 4..8));
    }

    #[test]
    fn what_is_not_closed_is_told_where_it_opens() {
        let error = |script: &str| {
            let e = split(script).unwrap_err();
            (e.message().to_string(), e.position().unwrap())
        };
        assert_eq!(error("select 'a"), ("unterminated quoted string at or near \"'a\"".into(), 8));
        assert_eq!(error("é \"a"), ("unterminated quoted identifier at or near \"\"a\"".into(), 3));
        assert_eq!(error("/* /* */"), ("unterminated /* comment at or near \"/* /* */\"".into(), 1));
        assert_eq!(error("$x$ $y$"), ("unterminated dollar-quoted string at or near \"$x$ $y$\"".into(), 1));
        assert_eq!(error("a\0").1, 2);
    }

    #[test]
    fn limits_hold() {
        let state = |script: String| split(&script).unwrap_err().state();
        assert_eq!(state("(".repeat(100_000)), SqlState::ProgramLimitExceeded);
        assert_eq!(state(format!("select 1{}", "+1".repeat(100_000))), SqlState::ProgramLimitExceeded);
        assert_eq!(state(format!("select 1{}", " union select 1".repeat(100_000))), SqlState::ProgramLimitExceeded);
        assert_eq!(state(format!("select 1{}", " or a = 1".repeat(100_000))), SqlState::ProgramLimitExceeded);
        assert_eq!(state(format!("select a::int{}", "[]".repeat(100_000))), SqlState::ProgramLimitExceeded);
        assert_eq!(state(" ".repeat(10_000_000)), SqlState::ProgramLimitExceeded);
        assert_eq!(split(&format!("select 1 in (1{})", ",1".repeat(500_000))).unwrap().len(), 1);
        assert_eq!(split(&format!("select a{}", " or a = 1".repeat(10_000))).unwrap()[0].conditions, 10_000);
    }
}
