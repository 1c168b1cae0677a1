//! Keys that have been answered: those without rows among them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tidemark_common::connector::LookupCache;

/// The rows that a table has for a key, encoded.
pub type Found = Arc<[Vec<u8>]>;

/// In memory only: after a restart it is filled anew.
#[derive(Default)]
pub struct Cache {
    /// A key ─▶ its rows and until when they may stand for what is there.
    known: HashMap<Vec<u8>, Known>,
    /// In the order in which they came, which is the one in which they go.
    order: VecDeque<(i64, Vec<u8>)>,
    hits: u64,
}

struct Known {
    rows: Found,
    until: i64,
}

impl Cache {
    /// The rows of a key as they were not long before `now`.
    pub fn get(&mut self, key: &[u8], now: i64) -> Option<Found> {
        let known = self.known.get(key).filter(|known| now < known.until)?;
        self.hits += 1;
        Some(Arc::clone(&known.rows))
    }

    /// Remembers what was found for each key, as `policy` says.
    pub fn keep(&mut self, keys: Vec<Vec<u8>>, found: Vec<Found>, now: i64, policy: LookupCache) {
        let until = now.saturating_add(policy.ttl);
        if until > now {
            for (key, rows) in keys.into_iter().zip(found) {
                self.order.push_back((until, key.clone()));
                self.known.insert(key, Known { rows, until });
            }
        }
        while let Some((until, _)) = self.order.front()
            && (*until <= now || self.known.len() > policy.keys)
        {
            let Some((until, key)) = self.order.pop_front() else { break };
            // It may have been asked for again since.
            if self.known.get(&key).is_some_and(|known| known.until <= until) {
                self.known.remove(&key);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn hits(&self) -> u64 {
        self.hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(cache: &mut Cache, now: i64) -> Vec<u8> {
        (0..9u8).filter(|key| cache.get(&[*key], now).is_some()).collect()
    }

    fn keep(cache: &mut Cache, key: u8, now: i64, ttl: i64, keys: usize) {
        cache.keep(vec![vec![key]], vec![Arc::default()], now, LookupCache { ttl, keys });
    }

    #[test]
    fn what_is_old_or_too_much_goes() {
        let mut cache = Cache::default();
        keep(&mut cache, 1, 0, 10, 3);
        keep(&mut cache, 2, 5, 10, 3);
        assert_eq!(keys(&mut cache, 9), [1, 2]);
        assert_eq!(keys(&mut cache, 10), [2], "its time is over");
        keep(&mut cache, 1, 11, 10, 3);
        assert_eq!(keys(&mut cache, 14), [1, 2], "asked for again");
        keep(&mut cache, 3, 12, 10, 3);
        keep(&mut cache, 4, 13, 10, 3);
        assert_eq!(keys(&mut cache, 14), [1, 3, 4], "the oldest goes first");
        keep(&mut cache, 5, 14, 0, 3);
        assert_eq!(keys(&mut cache, 14), [1, 3, 4], "nothing is remembered without a time");
        keep(&mut cache, 5, 40, 10, 3);
        assert_eq!((cache.len(), cache.order.len()), (1, 1));
    }
}
