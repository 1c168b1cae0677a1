//! Keys of rows that are keyed by a number, as the codec of one column of BIGINT has them.

/// The key of the row with this number.
pub fn key_of_number(number: i64) -> [u8; 9] {
    let mut key = [1; 9];
    key[1..].copy_from_slice(&(number ^ i64::MIN).to_be_bytes());
    key
}

/// The number of the row with this key; `None`: it is no such key.
pub fn number_of_key(key: &[u8]) -> Option<i64> {
    let (&1, number) = key.split_first()? else { return None };
    Some(i64::from_be_bytes(number.try_into().ok()?) ^ i64::MIN)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::Int64Array;
    use datafusion::arrow::datatypes::{DataType, Field};

    use super::*;
    use crate::rows::RowCodec;

    #[test]
    fn keys_are_those_of_the_codec() {
        let codec = RowCodec::for_keys(&[Arc::new(Field::new("n", DataType::Int64, true))]).unwrap();
        for number in [i64::MIN, -1, 0, 1, 255, 8192, i64::MAX] {
            let encoded = codec.encode(&[Arc::new(Int64Array::from(vec![number]))]).unwrap();
            assert_eq!(encoded.row(0), key_of_number(number));
            assert_eq!(number_of_key(encoded.row(0)), Some(number));
        }
        let null = codec.encode(&[Arc::new(Int64Array::from(vec![None]))]).unwrap();
        assert_eq!((number_of_key(null.row(0)), number_of_key(&[1, 2])), (None, None));
    }
}
