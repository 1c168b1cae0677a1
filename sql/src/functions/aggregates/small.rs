//! A batch's sums in 64 bits: most values are so small that a batch of them cannot overflow that.
//!
//! ```text
//!   group  0 1 0 0 1 0 ..        lanes   row % 4 = 0   1   2   3
//!   value  5 2 7 1 3 4 ..   ──▶  group 0          5   4   7   1   ──▶ 17, 4 values
//!                                group 1          3   2   .   .   ──▶  5, 2 values
//! ```
//!
//! With few groups a row mostly adds to a sum that the row before has just written. In lanes it need not wait for that.

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Int32Type, Int64Type};

/// With more groups than that a row seldom waits for another.
const MOST_GROUPS: usize = 128;
/// So many values of so many bits, and a sign, make at most 63 bits.
const MOST_VALUES: usize = 1 << 16;
const BITS: u32 = 47;
const LANES: usize = 4;

/// Sum and number of the values of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    pub sum: i64,
    pub count: i64,
}

impl Sum {
    fn add(&mut self, value: i64) {
        self.sum += value;
        self.count += 1;
    }
}

/// By group, if there are few and all values are small and not NULL. `groups`: each row's; all are of the first without it.
pub fn sums(values: &ArrayRef, groups: Option<&[usize]>, total: usize) -> Option<Vec<Sum>> {
    let few = total == 1 || (groups.is_some() && total <= MOST_GROUPS);
    if !few || values.null_count() > 0 || values.len() >= MOST_VALUES {
        return None;
    }
    let values = small(values)?;
    let Some(groups) = groups.filter(|_| total != 1) else {
        return Some(vec![Sum { sum: values.iter().sum(), count: values.len() as i64 }]);
    };
    let mut lanes = vec![[Sum::default(); LANES]; total];
    let (rows, rest) = values.as_chunks::<LANES>();
    let (groups, groups_of_rest) = groups.as_chunks::<LANES>();
    for (values, groups) in rows.iter().zip(groups) {
        for lane in 0..LANES {
            lanes[groups[lane]][lane].add(values[lane]);
        }
    }
    for (value, group) in rest.iter().zip(groups_of_rest) {
        lanes[*group][0].add(*value);
    }
    let together = |lanes: [Sum; LANES]| Sum {
        sum: lanes.iter().map(|lane| lane.sum).sum(),
        count: lanes.iter().map(|lane| lane.count).sum(),
    };
    Some(lanes.into_iter().map(together).collect())
}

fn small(values: &ArrayRef) -> Option<Vec<i64>> {
    match values.data_type() {
        DataType::Int32 => Some(values.as_primitive::<Int32Type>().values().iter().map(|v| i64::from(*v)).collect()),
        DataType::Int64 => {
            let values = values.as_primitive::<Int64Type>().values();
            let bits = values.iter().fold(0, |bits, v| bits | (v ^ (v >> 63)));
            (bits < 1 << BITS).then(|| values.to_vec())
        }
        DataType::Decimal128(..) => {
            let values = values.as_primitive::<Decimal128Type>().values();
            let bits = values.iter().fold(0, |bits, v| bits | (v ^ (v >> 127)));
            (bits < 1 << BITS).then(|| values.iter().map(|v| *v as i64).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{Decimal128Array, Int32Array, Int64Array};

    use super::*;

    fn check(values: ArrayRef, of: impl Fn(usize) -> i64, total: usize) {
        let groups: Vec<usize> = (0..values.len()).map(|row| row * 7 % total).collect();
        let mut expected = vec![Sum::default(); total];
        for (row, group) in groups.iter().enumerate() {
            expected[*group].add(of(row));
        }
        assert_eq!(sums(&values, Some(&groups), total), Some(expected));
    }

    #[test]
    fn of_every_group() {
        let value = |row: usize| (row as i64 - 500) * 1_000_003;
        check(Arc::new(Int64Array::from(Vec::<i64>::new())), |_| 0, 0);
        for total in [1, 2, 5, MOST_GROUPS] {
            for rows in [0, 1, 3, 4, 1001] {
                check(Arc::new(Int64Array::from_iter_values((0..rows).map(value))), value, total);
                let wide = (0..rows).map(|row| value(row).into());
                check(Arc::new(Decimal128Array::from_iter_values(wide)), value, total);
                let narrow = (0..rows).map(|row| row as i32 - 500);
                check(Arc::new(Int32Array::from_iter_values(narrow)), |row| row as i64 - 500, total);
            }
        }
    }

    #[test]
    fn not_of_values_that_could_overflow() {
        let of = |value: i64| sums(&(Arc::new(Int64Array::from(vec![1, value])) as ArrayRef), None, 1);
        let most = (1i64 << BITS) - 1;
        assert!(of(most).is_some() && of(-most - 1).is_some());
        assert!(of(most + 1).is_none() && of(-most - 2).is_none() && of(i64::MIN).is_none());
        let wide = Decimal128Array::from(vec![i128::MIN]);
        assert_eq!(sums(&(Arc::new(wide) as ArrayRef), None, 1), None);
        assert_eq!(sums(&(Arc::new(Int64Array::from(vec![None, Some(1)])) as ArrayRef), None, 1), None);
        let many: ArrayRef = Arc::new(Int64Array::from(vec![1; 2]));
        assert_eq!(sums(&many, Some(&[0, 1]), MOST_GROUPS + 1), None);
    }
}
