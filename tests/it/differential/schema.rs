//! Tables of a round and the statements that change them: few rows of few values, so that keys meet, repeat and vanish.

use crate::harness::Random;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    Int,
    Text,
    Bool,
    Numeric,
    Float,
    Time,
    Day,
    /// An array of integers.
    Ints,
}

#[derive(Debug, Clone)]
pub struct Table {
    pub name: String,
    pub columns: Vec<(String, Ty)>,
    /// How many of the first columns are the key.
    key: usize,
}

/// What queries read: tables, and views that were made over them.
#[derive(Debug, Clone)]
pub struct Schema {
    pub tables: Vec<Table>,
    /// Statements that make it.
    pub setup: Vec<String>,
}

fn one_of<'a>(random: &mut Random, choices: &[&'a str]) -> &'a str {
    choices[random.below(choices.len() as u64) as usize]
}

fn declared(ty: Ty, random: &mut Random) -> &'static str {
    match ty {
        Ty::Int => one_of(random, &["INT", "BIGINT", "SMALLINT"]),
        Ty::Text => one_of(random, &["TEXT", "TEXT", "VARCHAR(9)"]),
        Ty::Bool => "BOOLEAN",
        Ty::Numeric => one_of(random, &["NUMERIC(10, 2)", "NUMERIC"]),
        Ty::Float => "DOUBLE PRECISION",
        Ty::Time => "TIMESTAMP",
        Ty::Day => "DATE",
        Ty::Ints => "INT[]",
    }
}

/// One value as SQL; every type has few.
fn value(ty: Ty, random: &mut Random) -> String {
    if random.below(7) == 0 {
        return "NULL".into();
    }
    match ty {
        Ty::Int => random.below(6).to_string(),
        Ty::Text => one_of(random, &["'a'", "'b'", "'ab'", "'B'", "''", "'ba c'"]).into(),
        Ty::Bool => one_of(random, &["true", "false"]).into(),
        Ty::Numeric => one_of(random, &["0", "1.5", "1.50", "-2.25", "3", "1"]).into(),
        Ty::Float => one_of(random, &["0", "0.1", "0.2", "-1.5", "1e10", "3"]).into(),
        Ty::Time => format!("'2024-01-0{} 1{}:30'", 1 + random.below(4), random.below(3)),
        Ty::Day => format!("'2024-02-{}'", 27 + random.below(3)),
        Ty::Ints => one_of(random, &["'{}'", "'{1}'", "'{1,2}'", "'{2,NULL}'"]).into(),
    }
}

impl Schema {
    pub fn random(random: &mut Random) -> Self {
        let others = [Ty::Int, Ty::Bool, Ty::Numeric, Ty::Float, Ty::Time, Ty::Day, Ty::Text];
        let mut schema = Schema { tables: Vec::new(), setup: Vec::new() };
        for number in 0..3 {
            // One without a key, one with, and one that may be either.
            let key = if number == 2 { random.below(3) as usize } else { number };
            let mut columns = vec![Ty::Int, Ty::Text];
            for _ in 0..2 + random.below(3) {
                columns.push(others[random.below(others.len() as u64) as usize]);
            }
            let columns: Vec<(String, Ty)> =
                columns.into_iter().enumerate().map(|(i, ty)| (format!("c{i}"), ty)).collect();
            let mut parts: Vec<String> =
                columns.iter().map(|(name, ty)| format!("{name} {}", declared(*ty, random))).collect();
            if key > 0 {
                parts.push(format!("PRIMARY KEY ({})", names(&columns[..key])));
            }
            let name = format!("t{number}");
            schema.setup.push(format!("CREATE TABLE {name} ({})", parts.join(", ")));
            // Joins look rows up by it.
            let indexed = random.below(2 * columns.len() as u64) as usize;
            if indexed < columns.len() && !matches!(columns[indexed].1, Ty::Ints) {
                schema.setup.push(format!("CREATE INDEX ON {name} (c{indexed})"));
            }
            schema.tables.push(Table { name, columns, key });
        }
        schema
    }

    /// One statement, or several as one transaction.
    pub fn change(&self, random: &mut Random) -> String {
        match random.below(8) {
            0 => {
                let statements: Vec<String> = (0..2 + random.below(2)).map(|_| self.statement(random)).collect();
                format!("BEGIN; {}; COMMIT", statements.join("; "))
            }
            1 => format!("BEGIN; {}; {}; ROLLBACK", self.statement(random), self.statement(random)),
            _ => self.statement(random),
        }
    }

    fn statement(&self, random: &mut Random) -> String {
        let tables: Vec<&Table> = self.tables.iter().filter(|table| table.name.starts_with('t')).collect();
        let table = tables[random.below(tables.len() as u64) as usize];
        match random.below(10) {
            0..5 => table.insert(random),
            5 | 6 => table.update(random),
            7 | 8 => format!("DELETE FROM {}{}", table.name, table.condition(random)),
            // Grows no further: most of it goes.
            _ => match random.below(3) {
                0 => format!("DELETE FROM {}", table.name),
                _ => format!("DELETE FROM {} WHERE c0 % 3 <> 1 OR c0 IS NULL", table.name),
            },
        }
    }
}

fn names(columns: &[(String, Ty)]) -> String {
    columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}

impl Table {
    /// A view that is read as a table.
    pub fn of_view(name: String, columns: Vec<(String, Ty)>) -> Self {
        Self { name, columns, key: 0 }
    }

    fn row(&self, random: &mut Random) -> String {
        let values = self.columns.iter().enumerate().map(|(i, (_, ty))| match (i < self.key, ty) {
            (true, Ty::Int) => random.below(9).to_string(),
            (true, _) => one_of(random, &["'a'", "'b'", "'ab'", "''"]).into(),
            (false, ty) => value(*ty, random),
        });
        format!("({})", values.collect::<Vec<_>>().join(", "))
    }

    fn insert(&self, random: &mut Random) -> String {
        if self.key == 0 && random.below(5) == 0 {
            return format!("INSERT INTO {0} SELECT * FROM {0} WHERE c0 = {1}", self.name, random.below(6));
        }
        let rows: Vec<String> = match self.key {
            0 => (0..1 + random.below(5)).map(|_| self.row(random)).collect(),
            _ => (0..1 + random.below(3)).map(|_| self.row(random)).collect(),
        };
        let key = names(&self.columns[..self.key]);
        let conflict = match self.key {
            0 => String::new(),
            _ if random.below(3) == 0 => " ON CONFLICT DO NOTHING".into(),
            _ => {
                let others = &self.columns[self.key..];
                let set: Vec<String> = others.iter().map(|(name, _)| format!("{name} = excluded.{name}")).collect();
                format!(" ON CONFLICT ({key}) DO UPDATE SET {}", set.join(", "))
            }
        };
        // Two rows of one key in a statement would be an error.
        match self.key {
            0 => format!("INSERT INTO {} VALUES {}", self.name, rows.join(", ")),
            _ => rows
                .iter()
                .map(|row| format!("INSERT INTO {} VALUES {row}{conflict}", self.name))
                .collect::<Vec<_>>()
                .join("; "),
        }
    }

    fn update(&self, random: &mut Random) -> String {
        let free = &self.columns[self.key..];
        let (name, ty) = &free[random.below(free.len() as u64) as usize];
        let value = match ty {
            Ty::Int if random.below(2) == 0 => format!("({name} + 1) % 6"),
            Ty::Bool if random.below(2) == 0 => format!("NOT {name}"),
            _ => value(*ty, random),
        };
        format!("UPDATE {} SET {name} = {value}{}", self.name, self.condition(random))
    }

    fn condition(&self, random: &mut Random) -> String {
        let (name, ty) = &self.columns[random.below(self.columns.len() as u64) as usize];
        match random.below(4) {
            0 => format!(" WHERE {name} IS NULL"),
            1 => format!(" WHERE c0 % 2 = {}", random.below(2)),
            _ => match value(*ty, random).as_str() {
                "NULL" => format!(" WHERE {name} IS NULL"),
                value => format!(" WHERE {name} = {value}"),
            },
        }
    }
}
