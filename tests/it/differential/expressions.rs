//! Expressions, conditions, aggregates and functions over windows, over the columns in scope.
//!
//! What is drawn has one answer: an order is total up to equal rows, and nothing fails at run time.

use super::queries::{Generator, Relation, Scope};
use super::schema::Ty;

impl Generator<'_> {
    pub(super) fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.choices.below(choices.len() as u64) as usize]
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        // 0 is the simplest: no.
        self.choices.below(100) >= 100 - chance
    }

    fn literal(&mut self, ty: Ty) -> String {
        match ty {
            Ty::Int => self.choices.below(6).to_string(),
            Ty::Text => self.one_of(&["'a'", "'b'", "'ab'", "''", "'ba c'"]).into(),
            Ty::Bool => self.one_of(&["true", "false"]).into(),
            Ty::Numeric => self.one_of(&["1.5", "0.00", "-2.25"]).into(),
            Ty::Float => self.one_of(&["0.1::float8", "3::float8"]).into(),
            Ty::Time => self.one_of(&["TIMESTAMP '2024-01-02 11:30'", "TIMESTAMP '2024-01-03'"]).into(),
            Ty::Day => self.one_of(&["DATE '2024-02-28'", "DATE '2024-03-01'"]).into(),
            Ty::Ints => self.one_of(&["ARRAY[1]", "ARRAY[1, 2]"]).into(),
        }
    }

    /// A column of the type, if there is one.
    pub(super) fn column(&mut self, scope: &Scope, ty: Ty) -> Option<String> {
        let fitting: Vec<&String> = scope.iter().filter(|(_, t)| *t == ty).map(|(name, _)| name).collect();
        match fitting.len() as u64 {
            0 => None,
            n => Some(fitting[self.choices.below(n) as usize].clone()),
        }
    }

    /// Any column of a type that can be ordered.
    pub(super) fn any_column(&mut self, scope: &Scope) -> (String, Ty) {
        let fitting: Vec<&(String, Ty)> = scope.iter().filter(|(_, ty)| *ty != Ty::Ints).collect();
        match fitting.len() as u64 {
            0 => ("1".into(), Ty::Int),
            n => fitting[self.choices.below(n) as usize].clone(),
        }
    }

    pub(super) fn expr(&mut self, scope: &Scope, ty: Ty) -> String {
        self.within("expr", |g| {
            let Some(column) = g.column(scope, ty) else { return g.literal(ty) };
            match (ty, g.choices.below(8)) {
                (_, 0..4) => column,
                (_, 4) => {
                    let (condition, other) = (g.simple_condition(scope), g.literal(ty));
                    format!("CASE WHEN {condition} THEN {column} ELSE {other} END")
                }
                (Ty::Ints, _) => column,
                (_, 5) => format!("coalesce({column}, {})", g.literal(ty)),
                (Ty::Int, 6) => match g.choices.below(4) {
                    0..2 => format!("{column} + 1"),
                    2 => format!("json_array_length(json_build_array({column}, 1))"),
                    _ => format!("(jsonb_build_object('n', {column}) ->> 'n')::int"),
                },
                (Ty::Int, _) => format!("{column} % 3"),
                (Ty::Text, 6) => match g.choices.below(4) {
                    0..2 => format!("upper({column})"),
                    2 => format!("json_build_object('a', {column}, 'b', 1) ->> 'a'"),
                    _ => format!("jsonb_build_array(1, {column}, NULL)::text"),
                },
                (Ty::Text, _) => format!("{column} || 'x'"),
                (Ty::Bool, _) => format!("NOT {column}"),
                (Ty::Numeric, _) => format!("{column} + 0.25"),
                (Ty::Float, _) => format!("{column} * 2"),
                (Ty::Time, _) => format!("date_trunc('day', {column})"),
                (Ty::Day, _) => format!("{column} + 1"),
            }
        })
    }

    fn comparison(&mut self) -> &'static str {
        self.one_of(&["=", "<", ">", "<=", ">=", "<>"])
    }

    /// A condition without subqueries.
    pub(super) fn simple_condition(&mut self, scope: &Scope) -> String {
        self.within("condition", |g| {
            let (column, ty) = g.any_column(scope);
            match g.choices.below(14) {
                12 => {
                    let (other, of_other) = g.any_column(scope);
                    let op = g.comparison();
                    format!("({column}, {other}) {op} ({}, {})", g.expr(scope, ty), g.literal(of_other))
                }
                13 => {
                    let (other, of_other) = g.any_column(scope);
                    let not = g.one_of(&["", "NOT "]);
                    let mut row = || format!("({}, {})", g.literal(ty), g.literal(of_other));
                    let (one, two) = (row(), row());
                    format!("({column}, {other}) {not}IN ({one}, {two})")
                }
                0 => format!("{column} IS NOT NULL"),
                1 => format!("{column} IS NULL"),
                2 | 3 => format!("{column} {} {}", g.comparison(), g.literal(ty)),
                4 => {
                    let op = g.comparison();
                    format!("{column} {op} {}", g.expr(scope, ty))
                }
                5 => {
                    let not = g.one_of(&["", "NOT "]);
                    let null = g.one_of(&["", "", ", NULL"]);
                    format!("{column} {not}IN ({}, {}{null})", g.literal(ty), g.literal(ty))
                }
                6 => match g.column(scope, Ty::Text) {
                    Some(text) => {
                        format!("{text} {} '{}'", g.one_of(&["LIKE", "NOT LIKE"]), g.one_of(&["a%", "%b%", "_"]))
                    }
                    None => format!("{column} BETWEEN {} AND {}", g.literal(ty), g.literal(ty)),
                },
                7 => match g.column(scope, Ty::Bool) {
                    Some(flag) => format!("{flag}{}", g.one_of(&["", " IS NOT TRUE", " IS FALSE", " IS UNKNOWN"])),
                    None => format!("{column} <> {}", g.literal(ty)),
                },
                8 => {
                    let not = g.one_of(&["", "NOT "]);
                    format!("{column} IS {not}DISTINCT FROM {}", g.expr(scope, ty))
                }
                9 => format!("({} AND {})", g.simple_condition(scope), g.simple_condition(scope)),
                10 => format!("({} OR {})", g.simple_condition(scope), g.simple_condition(scope)),
                _ => format!("NOT ({})", g.simple_condition(scope)),
            }
        })
    }

    /// A condition that may ask other tables.
    pub(super) fn condition(&mut self, scope: &Scope, depth: u32) -> String {
        if depth == 0 {
            return self.simple_condition(scope);
        }
        self.within("condition", |g| match g.choices.below(8) {
            0..3 => g.simple_condition(scope),
            3 => {
                let op = g.one_of(&["AND", "OR"]);
                format!("({} {op} {})", g.simple_condition(scope), g.asking(scope, depth))
            }
            4 => format!("NOT ({})", g.asking(scope, depth)),
            _ => g.asking(scope, depth),
        })
    }

    pub(super) fn filter(&mut self, scope: &Scope, depth: u32) -> String {
        match self.percent(45) {
            true => format!(" WHERE {}", self.condition(scope, depth)),
            false => String::new(),
        }
    }

    /// IN, EXISTS, a scalar subquery, in many forms.
    fn asking(&mut self, scope: &Scope, depth: u32) -> String {
        let form = self.choices.below(7);
        let inner = self.relation(depth - 1);
        let tie = if self.percent(50) { self.tie(&inner.scope, scope) } else { None };
        let filter = self.tied_filter(tie.as_deref(), &inner.scope);
        let (column, ty) = self.any_column(&inner.scope);
        match form {
            0 => format!("{}EXISTS (SELECT 1 FROM {}{filter})", self.one_of(&["", "NOT "]), inner.sql),
            1 | 2 => {
                let wanted = self.expr(scope, ty);
                let form = self.one_of(&["IN", "NOT IN", "= ANY", "<> ALL"]);
                format!("{wanted} {form} (SELECT {column} FROM {}{filter})", inner.sql)
            }
            3 => {
                let form = self.one_of(&["IN", "NOT IN"]);
                let (text, n) = (self.expr(scope, Ty::Text), self.expr(scope, Ty::Int));
                match (self.column(&inner.scope, Ty::Text), self.column(&inner.scope, Ty::Int)) {
                    (Some(other), Some(m)) => {
                        format!("{text} || {n} {form} (SELECT {other} || {m} FROM {}{filter})", inner.sql)
                    }
                    _ => format!("{n} {form} (SELECT 1 FROM {}{filter})", inner.sql),
                }
            }
            6 => self.row_in(scope, &inner, &filter),
            _ => {
                let (aggregate, ty) = self.aggregate(&inner.scope);
                let op = self.comparison();
                format!("{} {op} (SELECT {aggregate} FROM {}{filter})", self.expr(scope, ty), inner.sql)
            }
        }
    }

    /// Two values, as a row, among those of a subquery.
    pub(super) fn row_in(&mut self, scope: &Scope, inner: &Relation, filter: &str) -> String {
        let ((a, of_a), (b, of_b)) = (self.any_column(&inner.scope), self.any_column(&inner.scope));
        let (x, y) = (self.expr(scope, of_a), self.expr(scope, of_b));
        let form = self.one_of(&["IN", "NOT IN", "= ANY", "<> ALL", "< ANY", ">= ALL"]);
        format!("({x}, {y}) {form} (SELECT {a}, {b} FROM {}{filter})", inner.sql)
    }

    /// A column of the one and a column of the other, of one type.
    pub(super) fn pair(&mut self, one: &Scope, other: &Scope) -> Option<(String, String, Ty)> {
        let mut pairs = Vec::new();
        for (a, ty) in one {
            let fitting = other.iter().filter(|(_, of_b)| ty == of_b && *ty != Ty::Ints);
            pairs.extend(fitting.map(|(b, _)| (a.clone(), b.clone(), *ty)));
        }
        match pairs.len() as u64 {
            0 => None,
            n => Some(pairs.swap_remove(self.choices.below(n) as usize)),
        }
    }

    /// An equality of a column of the one and a column of the other.
    pub(super) fn tie(&mut self, one: &Scope, other: &Scope) -> Option<String> {
        self.pair(one, other).map(|(a, b, _)| format!("{a} = {b}"))
    }

    /// WHERE with a tie to the outer row, or a condition, or both, or neither.
    pub(super) fn tied_filter(&mut self, tie: Option<&str>, inner: &Scope) -> String {
        let own = if self.percent(40) { Some(self.simple_condition(inner)) } else { None };
        match (tie, own) {
            (None, None) => String::new(),
            (Some(tie), None) => format!(" WHERE {tie}"),
            (None, Some(own)) => format!(" WHERE {own}"),
            (Some(tie), Some(own)) => format!(" WHERE {tie} AND {own}"),
        }
    }

    pub(super) fn aggregate(&mut self, scope: &Scope) -> (String, Ty) {
        self.within("aggregate", |g| {
            let (any, of_any) = g.any_column(scope);
            let (int, text) = (g.expr(scope, Ty::Int), g.expr(scope, Ty::Text));
            let number = match g.column(scope, Ty::Numeric) {
                Some(numeric) => numeric,
                None => int.clone(),
            };
            let order = g.total_order(scope);
            let call = match g.choices.below(24) {
                18 => (format!("mode() WITHIN GROUP (ORDER BY {any})"), of_any),
                19 => {
                    let call = g.one_of(&["stddev", "stddev_pop", "variance", "var_pop"]);
                    (format!("round({call}({int})::numeric, 6)"), Ty::Numeric)
                }
                20 | 21 if order.is_some() => {
                    let call = g.one_of(&["first_value", "last_value"]);
                    (format!("{call}({any} ORDER BY {})", order.unwrap_or_default()), of_any)
                }
                22 => (format!("json_agg({int} ORDER BY {int})::text"), Ty::Text),
                23 => (format!("jsonb_agg({text} ORDER BY {text} DESC)::text"), Ty::Text),
                0 => ("count(*)".into(), Ty::Int),
                1 => (format!("count({any})"), Ty::Int),
                2 => (format!("count(DISTINCT {any})"), Ty::Int),
                3 => (format!("sum({int})"), Ty::Numeric),
                4 => (format!("sum({number})"), Ty::Numeric),
                5 => (format!("sum(DISTINCT {int})"), Ty::Numeric),
                6 if of_any != Ty::Bool => (format!("min({any})"), of_any),
                7 if of_any != Ty::Bool => (format!("max({any})"), of_any),
                8 => (format!("avg({number})"), Ty::Numeric),
                9 => (format!("bool_and({})", g.expr(scope, Ty::Bool)), Ty::Bool),
                10 => (format!("bool_or({})", g.expr(scope, Ty::Bool)), Ty::Bool),
                11 => (format!("string_agg({text}, ',' ORDER BY {text})"), Ty::Text),
                12 => (format!("string_agg(DISTINCT {text}, ',' ORDER BY {text} DESC)"), Ty::Text),
                13 => (format!("array_agg({int} ORDER BY {int} DESC NULLS LAST)"), Ty::Ints),
                // The last digits of a float depend on the order of its rows; and no value is to be half way between two.
                14 => (format!("round((sum({}) + 0.00012)::numeric, 3)", g.expr(scope, Ty::Float)), Ty::Numeric),
                15 => (format!("round((avg({}) + 0.00012)::numeric, 3)", g.expr(scope, Ty::Float)), Ty::Numeric),
                16 => (format!("percentile_cont(0.5) WITHIN GROUP (ORDER BY {})", g.expr(scope, Ty::Float)), Ty::Float),
                17 => (format!("bit_or({int})"), Ty::Int),
                _ => (format!("count({any})"), Ty::Int),
            };
            // The clause belongs to a call, and some of these are more.
            let is_call = call.0.ends_with(')') && !call.0.starts_with("round");
            match g.percent(20) && is_call {
                true => (format!("{} FILTER (WHERE {})", call.0, g.simple_condition(scope)), call.1),
                false => call,
            }
        })
    }

    /// All columns, one of them first: rows that this leaves undecided are equal. `None`: some cannot be ordered.
    pub(super) fn total_order(&mut self, scope: &Scope) -> Option<String> {
        if scope.iter().any(|(_, ty)| *ty == Ty::Ints) {
            return None;
        }
        let (first, _) = self.any_column(scope);
        let how = self.one_of(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
        let others = scope.iter().map(|(name, _)| name).filter(|name| **name != first);
        Some([format!("{first}{how}")].into_iter().chain(others.cloned()).collect::<Vec<_>>().join(", "))
    }

    pub(super) fn partition(&mut self, scope: &Scope) -> String {
        match self.choices.below(3) {
            0 => String::new(),
            1 => format!("PARTITION BY {} ", self.any_column(scope).0),
            _ => {
                let (int, (other, _)) = (self.expr(scope, Ty::Int), self.any_column(scope));
                format!("PARTITION BY {int}, {other} ")
            }
        }
    }

    /// A function over a window. `by_place`: it may tell rows apart that are equal in all columns.
    pub(super) fn over(&mut self, scope: &Scope, by_place: bool) -> (String, Ty) {
        self.within("over", |g| {
            let partition = g.partition(scope);
            let (any, of_any) = g.any_column(scope);
            let form = if by_place { g.choices.below(3) } else { 2 * g.choices.below(2) };
            let order = g.total_order(scope);
            match (form, order) {
                (1, Some(order)) => {
                    let (call, ty) = match g.choices.below(8) {
                        0 => ("row_number()".into(), Ty::Int),
                        1 => ("ntile(3)".into(), Ty::Int),
                        2 => (format!("lag({any})"), of_any),
                        3 => (format!("lead({any}, 2)"), of_any),
                        4 => (format!("first_value({any})"), of_any),
                        5 => (format!("last_value({any})"), of_any),
                        6 => (format!("nth_value({any}, 2)"), of_any),
                        _ => g.aggregate_over(scope),
                    };
                    let frame = g.one_of(&[
                        "",
                        " ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
                        " ROWS 2 PRECEDING",
                        " ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
                        " ROWS BETWEEN 2 FOLLOWING AND 3 FOLLOWING",
                        " GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW",
                    ]);
                    (format!("{call} OVER ({partition}ORDER BY {order}{frame})"), ty)
                }
                // Frames that take equal rows together: their order does not matter.
                (2, _) => {
                    let (call, ty) = g.aggregate_over(scope);
                    let (column, of_column) = g.any_column(scope);
                    let how = g.one_of(&["", " DESC", " NULLS FIRST"]);
                    let frame = match of_column {
                        Ty::Int => g.one_of(&[
                            "",
                            " RANGE BETWEEN 2 PRECEDING AND 1 FOLLOWING",
                            " RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
                        ]),
                        _ => g.one_of(&["", " GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING", " GROUPS 1 PRECEDING"]),
                    };
                    (format!("{call} OVER ({partition}ORDER BY {column}{how}{frame})"), ty)
                }
                _ => {
                    let (call, ty) = match g.choices.below(6) {
                        0 => ("rank()".into(), Ty::Int),
                        1 => ("dense_rank()".into(), Ty::Int),
                        2 => ("cume_dist()".into(), Ty::Float),
                        3 => ("percent_rank()".into(), Ty::Float),
                        _ => g.aggregate_over(scope),
                    };
                    let order =
                        if g.percent(70) { format!("ORDER BY {}", g.any_column(scope).0) } else { String::new() };
                    (format!("{call} OVER ({partition}{order})"), ty)
                }
            }
        })
    }

    fn aggregate_over(&mut self, scope: &Scope) -> (String, Ty) {
        let (any, of_any) = self.any_column(scope);
        match self.choices.below(6) {
            0 => ("count(*)".into(), Ty::Int),
            1 => (format!("count({any})"), Ty::Int),
            2 => (format!("sum({})", self.expr(scope, Ty::Int)), Ty::Numeric),
            3 if of_any != Ty::Bool => (format!("max({any})"), of_any),
            4 if of_any != Ty::Bool => (format!("min({any})"), of_any),
            _ => (format!("bool_or({})", self.expr(scope, Ty::Bool)), Ty::Bool),
        }
    }
}
