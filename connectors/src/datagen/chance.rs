//! Chance without a generator that has to be carried along: bits from a key and a number, and values from bits.

/// 64 bits that look random, a function of both arguments (the finalizer of SplitMix64).
pub(super) fn mix(key: u64, n: u64) -> u64 {
    let mut z = key.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// By name and not by place, so that a column more leaves the others as they were.
pub(super) fn name_key(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// From 0 up to, not including, `span`.
pub(super) fn scale(bits: u64, span: u128) -> i128 {
    if span > u128::from(u64::MAX) {
        // Wider than the bits: 64 random bits over the whole span, in steps.
        return ((span >> 64) * u128::from(bits)) as i128;
    }
    ((u128::from(bits) * span) >> 64) as i128
}

/// From 0 up to, not including, 1.
pub(super) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

pub(super) fn letters(bits: u64, length: usize) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::with_capacity(length);
    let mut pool = bits;
    for i in 0..length {
        if i % 12 == 0 {
            pool = mix(bits, (i / 12) as u64);
        }
        text.push(char::from(LETTERS[(pool & 31) as usize]));
        pool >>= 5;
    }
    text
}

/// A version 4 uuid.
pub(super) fn uuid(high: u64, low: u64) -> String {
    let high = (high & !0xf000) | 0x4000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}
