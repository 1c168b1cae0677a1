//! Queries from a grammar that has every operator a view can have, and their nestings.
//!
//! ```text
//!   select(depth)   SELECT .. FROM relation(depth): plain, grouped, distinct, windowed, numbered, limited, united, ..
//!   relation(depth) a table or view; for depth > 0 also select(depth - 1), joins, LATERAL, VALUES, unnest
//! ```
//!
//! The first choice of each is the simplest, so that a tree of zeros is `SELECT a1.c0 FROM t0 AS a1`.

use super::choices::{Choices, Tree};
use super::schema::{Schema, Ty};

/// Columns that an expression may name, as it names them.
pub type Scope = Vec<(String, Ty)>;

/// What stands in FROM.
pub struct Relation {
    pub sql: String,
    pub scope: Scope,
    /// On the right of another join it needs parentheses.
    joined: bool,
}

/// A query and its columns.
pub struct Select {
    pub sql: String,
    pub columns: Vec<(String, Ty)>,
}

pub struct Generator<'a> {
    pub(super) choices: Choices,
    schema: &'a Schema,
    aliases: u32,
    names: u32,
}

/// The query that a tree of choices stands for.
pub fn replay(schema: &Schema, tree: &Tree) -> String {
    generate(schema, Choices::follow(tree)).0.sql
}

/// A query, and the choices that made it.
pub fn generate(schema: &Schema, choices: Choices) -> (Select, Tree) {
    // No name is that of a table's column: docs/differences.md says where DataFusion takes both for one.
    let mut generator = Generator { choices, schema, aliases: 0, names: 100 * schema.tables.len() as u32 };
    let depth = generator.choices.below(4).min(2) as u32;
    let select = generator.select(depth);
    (select, generator.choices.into_tree())
}

const TYPES: [Ty; 7] = [Ty::Int, Ty::Text, Ty::Bool, Ty::Numeric, Ty::Float, Ty::Time, Ty::Day];

impl Generator<'_> {
    pub(super) fn within<T>(&mut self, kind: &'static str, part: impl FnOnce(&mut Self) -> T) -> T {
        self.choices.open(kind);
        let made = part(self);
        self.choices.close();
        made
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("a{}", self.aliases)
    }

    fn aliased(&mut self, sql: &str, columns: &[(String, Ty)]) -> Relation {
        let alias = self.alias();
        let scope = columns.iter().map(|(name, ty)| (format!("{alias}.{name}"), *ty)).collect();
        Relation { sql: format!("{sql} AS {alias}"), scope, joined: false }
    }

    pub(super) fn relation(&mut self, depth: u32) -> Relation {
        self.within("relation", |g| match if depth == 0 { 0 } else { g.choices.below(10) } {
            0 => g.table(),
            1 | 2 => {
                let select = g.select(depth - 1);
                g.aliased(&format!("({})", select.sql), &select.columns)
            }
            3..6 => g.join(depth),
            6 => g.joined_by_name(depth),
            7 => g.lateral(depth),
            8 => g.unnest(depth),
            _ => {
                let columns = [("y0".to_string(), Ty::Int), ("y1".to_string(), Ty::Text)];
                let mut relation = g.aliased("(VALUES (1, 'a'), (2, NULL), (NULL, 'b'), (2, 'ab'))", &columns);
                relation.sql.push_str(" (y0, y1)");
                relation
            }
        })
    }

    fn table(&mut self) -> Relation {
        let table = &self.schema.tables[self.choices.below(self.schema.tables.len() as u64) as usize];
        self.aliased(&table.name, &table.columns)
    }

    fn join(&mut self, depth: u32) -> Relation {
        let (left, right) = (self.relation(depth - 1), self.relation(depth - 1));
        let kind = self.one_of(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let scope: Scope = left.scope.iter().chain(&right.scope).cloned().collect();
        let on = match self.tie(&left.scope, &right.scope) {
            None => "true".into(),
            Some(tie) => match self.choices.below(6) {
                0..3 => tie,
                3 => format!("{tie} AND {}", self.simple_condition(&scope)),
                4 => match self.tie(&left.scope, &right.scope) {
                    Some(other) => format!("{tie} AND {}", other.replace(" = ", " <= ")),
                    None => tie,
                },
                _ => tie.replace(" = ", " IS NOT DISTINCT FROM "),
            },
        };
        // PostgreSQL has no FULL JOIN without an equality.
        let kind = if on == "true" && kind == "FULL JOIN" { "LEFT JOIN" } else { kind };
        let right = if right.joined { format!("({})", right.sql) } else { right.sql };
        Relation { sql: format!("{} {kind} {right} ON {on}", left.sql), scope, joined: true }
    }

    /// USING or NATURAL over a column that both sides have.
    fn joined_by_name(&mut self, depth: u32) -> Relation {
        let (left, right) = (self.relation(depth - 1), self.relation(depth - 1));
        let Some((of_left, of_right, ty)) = self.pair(&left.scope, &right.scope) else { return left };
        let (x, of_x) = self.any_column(&left.scope);
        let (y, of_y) = self.any_column(&right.scope);
        let (one, other) = (self.alias(), self.alias());
        let kind = self.one_of(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let (natural, using) = match self.choices.below(2) {
            0 => ("", " USING (k)"),
            _ => ("NATURAL ", ""),
        };
        let shown = match self.choices.below(3) {
            0 => "*".into(),
            1 => format!("k, {one}.l, r"),
            _ => format!("coalesce(k, {one}.k, {other}.k) AS k, l, {other}.r"),
        };
        let joined = format!(
            "(SELECT {shown} FROM (SELECT {of_left} AS k, {x} AS l FROM {}) AS {one} {natural}{kind} \
             (SELECT {of_right} AS k, {y} AS r FROM {}) AS {other}{using})",
            left.sql, right.sql
        );
        self.aliased(&joined, &[("k".into(), ty), ("l".into(), of_x), ("r".into(), of_y)])
    }

    fn lateral(&mut self, depth: u32) -> Relation {
        let (outer, inner) = (self.relation(depth - 1), self.relation(0));
        let tie = self.tie(&inner.scope, &outer.scope);
        let filter = self.tied_filter(tie.as_deref(), &inner.scope);
        let (values, columns) = match self.choices.below(2) {
            0 => {
                let (x, y) = (self.aggregate(&inner.scope), self.aggregate(&inner.scope));
                self.named(vec![x, y])
            }
            _ => {
                let (x, y) = (self.any_column(&inner.scope), self.any_column(&inner.scope));
                self.named(vec![x, y])
            }
        };
        let lateral = self.aliased(&format!("LATERAL (SELECT {values} FROM {}{filter})", inner.sql), &columns);
        let sql = match self.choices.below(3) {
            0 => format!("{} CROSS JOIN {}", outer.sql, lateral.sql),
            1 => format!("{} JOIN {} ON true", outer.sql, lateral.sql),
            _ => format!("{} LEFT JOIN {} ON true", outer.sql, lateral.sql),
        };
        Relation { sql, scope: outer.scope.into_iter().chain(lateral.scope).collect(), joined: true }
    }

    fn unnest(&mut self, depth: u32) -> Relation {
        let outer = self.relation(depth - 1);
        let list = match self.column(&outer.scope, Ty::Ints) {
            Some(list) => list,
            None => format!("ARRAY[{}, {}]", self.expr(&outer.scope, Ty::Int), self.expr(&outer.scope, Ty::Int)),
        };
        let alias = self.alias();
        let join = self.one_of(&["CROSS JOIN", "LEFT JOIN"]);
        let on = if join == "LEFT JOIN" { " ON true" } else { "" };
        let sql = format!("{} {join} unnest({list}) AS {alias} (item){on}", outer.sql);
        let mut scope = outer.scope;
        scope.push((format!("{alias}.item"), Ty::Int));
        Relation { sql, scope, joined: true }
    }

    /// `e AS x1, f AS x2, ..` and these columns; no two of a query have the same name.
    fn named(&mut self, values: Vec<(String, Ty)>) -> (String, Vec<(String, Ty)>) {
        let name = |(value, ty): (String, Ty)| {
            self.names += 1;
            let name = format!("x{}", self.names);
            (format!("{value} AS {name}"), (name, ty))
        };
        let (sql, columns): (Vec<String>, Vec<(String, Ty)>) = values.into_iter().map(name).unzip();
        (sql.join(", "), columns)
    }

    /// One to three values of types that are in scope.
    fn values(&mut self, scope: &Scope) -> Vec<(String, Ty)> {
        (0..1 + self.choices.below(3))
            .map(|_| {
                let (_, ty) = self.any_column(scope);
                (self.expr(scope, ty), ty)
            })
            .collect()
    }

    pub(super) fn select(&mut self, depth: u32) -> Select {
        self.within("select", |g| match g.choices.below(if depth == 0 { 16 } else { 22 }) {
            0..2 => g.plain(depth, ""),
            2 => g.plain(depth, "DISTINCT "),
            3..6 => g.grouped(depth),
            6 => g.grouping_sets(depth),
            7 | 8 => g.windowed(depth),
            9 => g.limited(depth),
            10 | 11 => g.numbered(depth),
            12 => g.distinct_on(depth),
            13 => g.whole(depth),
            14 | 15 => g.extremes(depth),
            16..19 => g.united(depth),
            19 => g.with(depth),
            _ => g.asked(depth),
        })
    }

    fn plain(&mut self, depth: u32, distinct: &str) -> Select {
        let from = self.relation(depth);
        let values = self.values(&from.scope);
        let (values, columns) = self.named(values);
        let filter = self.filter(&from.scope, depth);
        Select { sql: format!("SELECT {distinct}{values} FROM {}{filter}", from.sql), columns }
    }

    fn having(&mut self, scope: &Scope, depth: u32) -> String {
        match self.choices.below(4) {
            0 | 1 => String::new(),
            2 => " HAVING count(*) > 1".into(),
            _ => {
                let (aggregate, ty) = self.aggregate(scope);
                match depth {
                    0 => format!(" HAVING {aggregate} IS NOT NULL"),
                    _ => {
                        let other = self.relation(0);
                        match self.column(&other.scope, ty) {
                            Some(column) if ty != Ty::Bool && ty != Ty::Ints => {
                                format!(" HAVING {aggregate} >= (SELECT min({column}) FROM {})", other.sql)
                            }
                            _ => format!(" HAVING {aggregate} IS NOT NULL"),
                        }
                    }
                }
            }
        }
    }

    fn grouped(&mut self, depth: u32) -> Select {
        let from = self.relation(depth);
        let keys = self.values(&from.scope);
        let positions: Vec<String> = (1..=keys.len()).map(|i| i.to_string()).collect();
        let mut values = keys;
        values.extend((0..1 + self.choices.below(2)).map(|_| self.aggregate(&from.scope)));
        let (values, columns) = self.named(values);
        let (filter, having) = (self.filter(&from.scope, depth), self.having(&from.scope, depth));
        let sql = format!("SELECT {values} FROM {}{filter} GROUP BY {}{having}", from.sql, positions.join(", "));
        Select { sql, columns }
    }

    /// Aggregates of everything: always one row.
    fn whole(&mut self, depth: u32) -> Select {
        let from = self.relation(depth);
        let (x, y) = (self.aggregate(&from.scope), self.aggregate(&from.scope));
        let (values, columns) = self.named(vec![x, y]);
        let (filter, having) = (self.filter(&from.scope, depth), self.having(&from.scope, depth));
        Select { sql: format!("SELECT {values} FROM {}{filter}{having}", from.sql), columns }
    }

    /// Rows with the greatest or least value of their group.
    fn extremes(&mut self, depth: u32) -> Select {
        let (sql, columns) = match depth {
            0 => {
                let table = &self.schema.tables[self.choices.below(self.schema.tables.len() as u64) as usize];
                (table.name.clone(), table.columns.clone())
            }
            _ => {
                let select = self.select(depth - 1);
                (format!("({})", select.sql), select.columns)
            }
        };
        let (rows, grouped) = (self.aliased(&sql, &columns), self.aliased(&sql, &columns));
        let fitting = |ty: &Ty| !matches!(ty, Ty::Bool | Ty::Ints);
        let fitting: Vec<usize> = (0..columns.len()).filter(|at| fitting(&columns[*at].1)).collect();
        if fitting.is_empty() {
            return self.plain(0, "");
        }
        let mut picked = || fitting[self.choices.below(fitting.len() as u64) as usize];
        let (value, keys) = (picked(), [picked(), picked()]);
        let keys = &keys[..self.choices.below(3) as usize];
        let (call, meets) = self.choices.one_of(&[("max", "="), ("max", ">="), ("min", "="), ("min", "<=")]);
        let of = |relation: &Relation, at: usize| relation.scope[at].0.clone();
        let shown: Vec<String> =
            keys.iter().enumerate().map(|(n, key)| format!("{} AS g{n}, ", of(&grouped, *key))).collect();
        let group: Vec<String> = keys.iter().map(|key| of(&grouped, *key)).collect();
        let group = if keys.is_empty() { String::new() } else { format!(" GROUP BY {}", group.join(", ")) };
        let on: Vec<String> =
            keys.iter().enumerate().map(|(n, key)| format!("{} = g.g{n} AND ", of(&rows, *key))).collect();
        let mut scope = rows.scope.clone();
        scope.push(("g.m".into(), columns[value].1));
        let values = self.values(&scope);
        let (values, columns) = self.named(values);
        let (inner, outer) = match self.percent(20) {
            true => (self.filter(&grouped.scope, 0), self.filter(&scope, 0)),
            false => (String::new(), String::new()),
        };
        let sql = format!(
            "SELECT {values} FROM {} JOIN (SELECT {}{call}({}) AS m FROM {}{inner}{group}) AS g ON {}{} {meets} g.m{outer}",
            rows.sql,
            shown.concat(),
            of(&grouped, value),
            grouped.sql,
            on.concat(),
            of(&rows, value)
        );
        Select { sql, columns }
    }

    fn grouping_sets(&mut self, depth: u32) -> Select {
        let from = self.relation(depth);
        let (a, b) = (self.any_column(&from.scope), self.any_column(&from.scope));
        if a.0 == b.0 || a.0 == "1" {
            return self.plain(0, "");
        }
        let sets = match self.choices.below(4) {
            0 => format!("ROLLUP ({}, {})", a.0, b.0),
            1 => format!("CUBE ({}, {})", a.0, b.0),
            2 => format!("GROUPING SETS (({}), ({}), ())", a.0, b.0),
            _ => format!("{}, ROLLUP ({})", a.0, b.0),
        };
        let grouping = (format!("grouping({}, {})", a.0, b.0), Ty::Int);
        let aggregate = self.aggregate(&from.scope);
        let (values, columns) = self.named(vec![a, b, grouping, aggregate]);
        let filter = self.filter(&from.scope, depth);
        let having = self.one_of(&["", " HAVING count(*) > 1"]);
        Select { sql: format!("SELECT {values} FROM {}{filter} GROUP BY {sets}{having}", from.sql), columns }
    }

    fn windowed(&mut self, depth: u32) -> Select {
        let from = self.relation(depth);
        let mut values = self.values(&from.scope);
        values.push(self.over(&from.scope, true));
        if self.percent(50) {
            // Which of two equal rows is the first is for each window to say: only one may.
            values.push(self.over(&from.scope, false));
        }
        let (values, columns) = self.named(values);
        let filter = self.filter(&from.scope, depth);
        Select { sql: format!("SELECT {values} FROM {}{filter}", from.sql), columns }
    }

    fn limited(&mut self, depth: u32) -> Select {
        let from = self.relation(depth);
        let Some(order) = self.total_order(&from.scope) else { return self.plain(0, "") };
        let values = self.values(&from.scope);
        let (values, columns) = self.named(values);
        let filter = self.filter(&from.scope, depth);
        let (limit, offset) = (1 + self.choices.below(4), self.one_of(&["", " OFFSET 1", " OFFSET 3"]));
        Select {
            sql: format!("SELECT {values} FROM {}{filter} ORDER BY {order} LIMIT {limit}{offset}", from.sql),
            columns,
        }
    }

    /// The first rows of each partition.
    fn numbered(&mut self, depth: u32) -> Select {
        let from = self.relation(depth);
        let Some(order) = self.total_order(&from.scope) else { return self.plain(0, "") };
        let (partition, values) = (self.partition(&from.scope), self.values(&from.scope));
        let (call, order) = match self.choices.below(4) {
            0 | 1 => ("row_number()", order),
            2 => ("rank()", self.any_column(&from.scope).0),
            _ => ("dense_rank()", self.any_column(&from.scope).0),
        };
        let order = if order == "1" { "1 + 1".into() } else { order };
        let (inner, mut columns) = self.named(values);
        let filter = self.filter(&from.scope, depth);
        let bound = format!("{} {}", self.one_of(&["<=", "=", "<"]), 1 + self.choices.below(3));
        let mut shown: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
        if self.percent(50) {
            shown.push("n".into());
            columns.push(("n".into(), Ty::Int));
        }
        let sql = format!(
            "SELECT {} FROM (SELECT {inner}, {call} OVER ({partition}ORDER BY {order}) AS n FROM {}{filter}) AS numbered WHERE n {bound}",
            shown.join(", "),
            from.sql
        );
        Select { sql, columns }
    }

    fn distinct_on(&mut self, depth: u32) -> Select {
        let from = self.relation(depth);
        let Some(order) = self.total_order(&from.scope) else { return self.plain(0, "") };
        let (key, _) = self.any_column(&from.scope);
        let values = self.values(&from.scope);
        let (values, columns) = self.named(values);
        let filter = self.filter(&from.scope, depth);
        Select {
            sql: format!("SELECT DISTINCT ON ({key}) {values} FROM {}{filter} ORDER BY {key}, {order}", from.sql),
            columns,
        }
    }

    /// Two queries with columns of the same types, and a set operation.
    fn united(&mut self, depth: u32) -> Select {
        let types: Vec<Ty> =
            (0..1 + self.choices.below(2)).map(|_| TYPES[self.choices.below(TYPES.len() as u64) as usize]).collect();
        let (left, columns) = self.of_types(&types, depth - 1);
        let (right, _) = self.of_types(&types, depth - 1);
        let op =
            self.one_of(&["UNION ALL", "UNION", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL", "EXCEPT ALL"]);
        Select { sql: format!("{left} {op} {right}"), columns }
    }

    fn of_types(&mut self, types: &[Ty], depth: u32) -> (String, Vec<(String, Ty)>) {
        let from = self.relation(depth);
        let values = types.iter().map(|ty| (self.expr(&from.scope, *ty), *ty)).collect();
        let (values, columns) = self.named(values);
        let filter = self.filter(&from.scope, depth);
        (format!("SELECT {values} FROM {}{filter}", from.sql), columns)
    }

    /// A query that is read twice.
    fn with(&mut self, depth: u32) -> Select {
        let part = self.select(depth - 1);
        let (left, right) = (self.aliased("part", &part.columns), self.aliased("part", &part.columns));
        let join = self.one_of(&["JOIN", "LEFT JOIN", "FULL JOIN"]);
        let Some(tie) = self.tie(&left.scope, &right.scope) else { return part };
        let scope: Scope = left.scope.iter().chain(&right.scope).cloned().collect();
        let values = self.values(&scope);
        let (values, columns) = self.named(values);
        let filter = self.filter(&scope, 0);
        let sql = format!(
            "WITH part AS ({}) SELECT {values} FROM {} {join} {} ON {tie}{filter}",
            part.sql, left.sql, right.sql
        );
        Select { sql, columns }
    }

    /// Subqueries as values.
    fn asked(&mut self, depth: u32) -> Select {
        let from = self.relation(depth - 1);
        let mut values = self.values(&from.scope);
        let inner = self.relation(depth - 1);
        let tie = self.tie(&inner.scope, &from.scope);
        let filter = self.tied_filter(tie.as_deref(), &inner.scope);
        values.push(match self.choices.below(5) {
            0 => (format!("EXISTS (SELECT 1 FROM {}{filter})", inner.sql), Ty::Bool),
            4 => (self.row_in(&from.scope, &inner, &filter), Ty::Bool),
            1 => {
                let (column, ty) = self.any_column(&inner.scope);
                let form = self.one_of(&["IN", "NOT IN"]);
                (
                    format!("{} {form} (SELECT {column} FROM {}{filter})", self.expr(&from.scope, ty), inner.sql),
                    Ty::Bool,
                )
            }
            _ => {
                let (aggregate, ty) = self.aggregate(&inner.scope);
                (format!("(SELECT {aggregate} FROM {}{filter})", inner.sql), ty)
            }
        });
        let (values, columns) = self.named(values);
        let outer = self.filter(&from.scope, 0);
        Select { sql: format!("SELECT {values} FROM {}{outer}", from.sql), columns }
    }
}
