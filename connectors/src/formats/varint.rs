//! Numbers of seven bits a byte, the lowest first, as Avro and Protobuf have them.

use tidemark_common::Result;

/// `byte` gives the next one. `None`: the number has more than 64 bits.
#[inline]
pub(super) fn read(mut byte: impl FnMut() -> Result<u8>) -> Result<Option<u64>> {
    let mut read = 0;
    for shift in (0..70).step_by(7) {
        let byte = byte()?;
        if shift == 63 && byte > 1 {
            break;
        }
        read |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(Some(read));
        }
    }
    Ok(None)
}

/// 0, 1, 2, 3, .. is 0, -1, 1, -2, ..
pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
