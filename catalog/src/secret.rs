//! How the value of a secret is kept: encrypted, under a key that is not in the data directory.
//!
//! ```text
//!   CREATE SECRET s AS 'x' ──SecretKey::seal──▶ hex(nonce ‖ AES-256-GCM(x)) in the catalog ──open──▶ Hidden, when something needs it
//!                              ▲ secret_key of the configuration                          ▲ the same
//! ```
//!
//! The secret's OID goes into the seal, so that the value of one secret cannot be put in the place of another's.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use tidemark_common::{Error, Hidden, Oid, Result};

/// Bytes of the key.
const KEY: usize = 32;

/// CREATE SECRET: the value, sealed, or where it is to be found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Secret {
    /// In hexadecimal: nonce, then what AES-256-GCM made of the value.
    Sealed(String),
    /// An environment variable of the server, read when it is needed.
    Env(String),
    /// A file on the server's machine, read when it is needed.
    File(String),
}

/// The key that seals secrets.
#[derive(Clone)]
pub struct SecretKey([u8; KEY]);

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKey(***)")
    }
}

impl SecretKey {
    /// 64 hexadecimal digits; `None` for anything else.
    pub fn parse(text: &str) -> Option<SecretKey> {
        Some(SecretKey(from_hex(text.trim())?.try_into().ok()?))
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &self.0).expect("the key is as long as the cipher's"))
    }

    pub fn seal(&self, secret: Oid, value: &Hidden) -> Result<String> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| Error::internal("the machine has no random numbers to encrypt a secret with"))?;
        let mut bytes = value.reveal().as_bytes().to_vec();
        self.cipher()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), about(secret), &mut bytes)
            .map_err(|_| Error::internal("a secret could not be encrypted"))?;
        Ok(to_hex(&[&nonce[..], &bytes].concat()))
    }

    /// `None`: sealed with another key, for another secret, or damaged.
    pub fn open(&self, secret: Oid, sealed: &str) -> Option<Hidden> {
        let bytes = from_hex(sealed)?;
        let (nonce, rest) = bytes.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut rest = rest.to_vec();
        let value = self.cipher().open_in_place(nonce, about(secret), &mut rest).ok()?;
        String::from_utf8(value.to_vec()).ok().map(Hidden::new)
    }
}

/// What the seal vouches for besides the value.
fn about(secret: Oid) -> Aad<[u8; 16]> {
    let mut text = *b"tidemark.1 \0\0\0\0\0";
    text[12..].copy_from_slice(&secret.to_be_bytes());
    Aad::from(text)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(digit: char) -> SecretKey {
        SecretKey::parse(&String::from(digit).repeat(64)).unwrap()
    }

    #[test]
    fn only_the_key_that_sealed_opens() {
        let value = Hidden::new("sesame ünd more");
        let sealed = key('a').seal(16400, &value).unwrap();
        assert!(!sealed.contains("sesame"));
        assert_ne!(sealed, key('a').seal(16400, &value).unwrap(), "a nonce of its own each time");
        assert_eq!(key('a').open(16400, &sealed), Some(value));
        assert_eq!(key('b').open(16400, &sealed), None);
        assert_eq!(key('a').open(16401, &sealed), None, "another secret's");
        let mut damaged = sealed.clone();
        damaged.replace_range(30..31, if &sealed[30..31] == "0" { "1" } else { "0" });
        assert_eq!(key('a').open(16400, &damaged), None);
        assert_eq!(key('a').open(16400, ""), None);
    }

    /// A value that an earlier version has sealed.
    #[test]
    fn what_was_sealed_once_opens_for_ever() {
        let sealed = "000102030405060708090a0b748cda771ecdb62c3b8065d6aefd1e927c87efe4158e";
        assert_eq!(key('1').open(16384, sealed), Some(Hidden::new("golden")));
        assert_eq!(key('1').open(16384, &sealed[..24]), None, "no value, no tag");
    }

    #[test]
    fn a_key_is_64_digits() {
        assert!(SecretKey::parse(&"0aF9".repeat(16)).is_some());
        for wrong in ["", "abc", &"g".repeat(64), &"a".repeat(63), &"a".repeat(66)] {
            assert!(SecretKey::parse(wrong).is_none(), "{wrong}");
        }
        assert_eq!(format!("{:?} {:?}", key('a'), Hidden::new("x")), "SecretKey(***) ***");
    }
}
