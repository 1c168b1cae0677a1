//! Each test runs [`KeyedState`] beside a `BTreeMap` that does the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::store::{Store, StoreOptions};

const ID: StateId = StateId::new(20000, 4);

fn open(dir: &std::path::Path) -> Arc<Store> {
    let options = StoreOptions { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 16, sync: false };
    Store::open(dir, &options).unwrap()
}

/// Commits what `state` has, as the next epoch.
fn commit(store: &Store, state: &mut KeyedState) -> Arc<Snapshot> {
    let mut commit = store.begin();
    state.flush(&mut commit);
    store.commit(commit, store.epoch() + 1, false).unwrap()
}

fn random_bytes(rng: &mut StdRng, alphabet: u8, longest: usize) -> Vec<u8> {
    (0..rng.random_range(0..=longest)).map(|_| rng.random_range(0..alphabet)).collect()
}

fn entries(model: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<Entry> {
    model.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// One random operation on both; panics where they differ.
fn step(rng: &mut StdRng, state: &mut KeyedState, model: &mut BTreeMap<Vec<u8>, Vec<u8>>, snapshot: &Snapshot) {
    let key = random_bytes(rng, 6, 4);
    match rng.random_range(0..100) {
        0..45 => {
            let keys: Vec<Vec<u8>> = (0..rng.random_range(1..8)).map(|_| random_bytes(rng, 6, 4)).collect();
            state.load(snapshot, &keys).unwrap();
            for key in keys {
                assert_eq!(state.get(&key), model.get(&key).map(Vec::as_slice), "{key:?}");
                let value = random_bytes(rng, 255, 60);
                if rng.random_bool(0.6) {
                    state.put(&key, &value);
                    model.insert(key, value);
                } else {
                    state.delete(&key);
                    model.remove(&key);
                }
            }
        }
        45..60 => {
            state.put(&key, b"unseen");
            model.insert(key, b"unseen".to_vec());
        }
        60..68 => {
            state.delete(&key);
            model.remove(&key);
        }
        68..76 => {
            let expected: Vec<Entry> = entries(model).into_iter().filter(|(k, _)| k.starts_with(&key)).collect();
            assert_eq!(state.scan_prefix(snapshot, &key).unwrap(), expected);
            let mut prefixes: Vec<[u8; 1]> = (0..rng.random_range(0..5)).map(|_| [rng.random_range(0..6)]).collect();
            prefixes.sort_unstable_by(|a, b| b.cmp(a));
            prefixes.dedup();
            let mut found: Vec<(usize, Entry)> = Vec::new();
            let each = |at, key: &[u8], value: &[u8]| found.push((at, (key.to_vec(), value.to_vec())));
            state.scan_prefixes(snapshot, &prefixes, each).unwrap();
            let position = |e: &Entry| prefixes.iter().position(|p| e.0.starts_with(p));
            let expected: Vec<(usize, Entry)> =
                entries(model).into_iter().filter_map(|e| Some((position(&e)?, e))).collect();
            assert_eq!(found, expected);
        }
        76..86 => {
            let to = random_bytes(rng, 6, 4);
            let limit = rng.random_range(0..6);
            let mut expected: Vec<Entry> = entries(model);
            expected.retain(|(k, _)| *k >= key && *k < to);
            let first: Vec<Entry> = expected.iter().take(limit).cloned().collect();
            assert_eq!(state.scan_range(snapshot, &key, Some(&to), Direction::Forward, limit).unwrap(), first);
            let last: Vec<Entry> = expected.into_iter().rev().take(limit).collect();
            assert_eq!(state.scan_range(snapshot, &key, Some(&to), Direction::Reverse, limit).unwrap(), last);
        }
        86..91 => {
            let rest = model.split_off(&key);
            let below = std::mem::replace(model, rest);
            assert_eq!(state.take_below(snapshot, &key).unwrap(), entries(&below));
        }
        91..95 => {
            *model = model.split_off(&key);
            state.drop_below(snapshot, &key).unwrap();
        }
        95 => {
            model.clear();
            state.clear();
        }
        _ => {
            let mut all = Vec::new();
            while let Some(chunk) =
                Some(state.scan_chunk(snapshot, all.last().map(|e: &Entry| e.0.as_slice()), 7).unwrap())
                    .filter(|chunk| !chunk.is_empty())
            {
                all.extend(chunk);
            }
            assert_eq!(all, entries(model));
        }
    }
    if let Some(len) = state.len() {
        assert_eq!(len, model.len());
    }
}

fn run(seed: u64, budget: usize, keep: bool) {
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let mut state = KeyedState::with_prefix(ID, &[7], budget);
    let mut neighbour = KeyedState::with_prefix(ID, &[8], budget);
    let mut model = BTreeMap::new();
    neighbour.put(b"stays", b"here");
    commit(&store, &mut neighbour);
    for epoch in 0..120 {
        let before = store.snapshot();
        for _ in 0..rng.random_range(0..25) {
            step(&mut rng, &mut state, &mut model, &before);
        }
        let mut batch = store.begin();
        if rng.random_bool(0.3) {
            // Flushed twice in one epoch, changed in between.
            state.flush(&mut batch);
            for _ in 0..5 {
                step(&mut rng, &mut state, &mut model, &before);
            }
        }
        state.flush(&mut batch);
        let snapshot = store.commit(batch, store.epoch() + 1, false).unwrap();
        let mut fresh = KeyedState::with_prefix(ID, &[7], budget);
        assert_eq!(fresh.scan_prefix(&snapshot, b"").unwrap(), entries(&model), "epoch {epoch}");
        if epoch % 40 == 39 && !keep {
            drop((store, before, snapshot));
            store = open(dir.path());
            state = KeyedState::with_prefix(ID, &[7], budget);
        }
    }
    let stays = neighbour.scan_prefix(&store.snapshot(), b"").unwrap();
    assert_eq!(stays, [(b"stays".to_vec(), b"here".to_vec())]);
}

#[test]
fn does_what_a_map_does() {
    for seed in 0..8 {
        run(seed, 1 << 20, false);
    }
}

#[test]
fn does_what_a_map_does_in_little_memory() {
    for seed in 0..4 {
        run(100 + seed, 2000, false);
        run(200 + seed, 20_000, true);
        run(300 + seed, 0, true);
    }
}

#[test]
fn memory_stays_within_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let budget = 64 << 10;
    let mut state = KeyedState::new(ID, budget);
    for epoch in 0..20u32 {
        let snapshot = store.snapshot();
        let keys: Vec<[u8; 4]> = (0..200).map(|i| (epoch * 200 + i).to_be_bytes()).collect();
        state.load(&snapshot, &keys).unwrap();
        assert!(state.bytes() <= budget + 200 * 300, "{} bytes", state.bytes());
        for key in &keys {
            state.put(key, &[1; 100]);
        }
        commit(&store, &mut state);
    }
    assert_eq!(state.len(), None, "it has forgotten some");
    let snapshot = store.snapshot();
    state.load(&snapshot, &[0u32.to_be_bytes()]).unwrap();
    assert_eq!(state.get(&0u32.to_be_bytes()), Some(&[1; 100][..]));
    assert!(state.bytes() <= budget + 400);
}

#[test]
fn what_the_watermark_passes_goes_in_one_range() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut state = KeyedState::new(ID, 1 << 20);
    let snapshot = store.snapshot();
    state.load::<[u8; 1]>(&snapshot, &[]).unwrap();
    for key in 0..100u8 {
        state.put(&[key], b"v");
    }
    assert_eq!(state.len(), Some(100));
    let snapshot = commit(&store, &mut state);

    assert_eq!(state.take_below(&snapshot, &[40]).unwrap().len(), 40);
    assert!(state.take_below(&snapshot, &[40]).unwrap().is_empty());
    state.drop_below(&snapshot, &[60]).unwrap();
    let mut batch = store.begin();
    state.flush(&mut batch);
    assert_eq!((batch.entries(), batch.range_deletions()), (2, 2));
    let snapshot = store.commit(batch, 2, false).unwrap();
    assert_eq!(state.len(), Some(40));

    // Nothing between: nothing is written. What never reached the disk is not deleted there either.
    assert!(state.take_below(&snapshot, &[60]).unwrap().is_empty());
    state.put(&[10], b"late");
    assert_eq!(state.take_below(&snapshot, &[60]).unwrap().len(), 1);
    let mut batch = store.begin();
    state.flush(&mut batch);
    assert!(batch.is_empty());
    assert_eq!(state.scan_prefix(&snapshot, b"").unwrap().first().unwrap().0, [60]);
}

#[test]
fn bytes_are_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut state = KeyedState::new(ID, 1 << 20);
    state.put(b"k", b"value");
    let snapshot = commit(&store, &mut state);
    assert_eq!(snapshot.get(&Key::State { state: ID, key: b"k" }).unwrap().unwrap(), b"\x01value");
}
