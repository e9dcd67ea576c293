//! The hash of the maps by which sessions and rooms are found: keyed from outside, so that
//! nobody can choose addresses or rooms that collide. The maps are never iterated.

use std::hash::BuildHasher;

use siphasher::sip::SipHasher13;

/// SipHash-1-3 under one key.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyedHash {
    key: (u64, u64),
}

impl KeyedHash {
    pub(super) fn new(key: (u64, u64)) -> KeyedHash {
        KeyedHash { key }
    }
}

impl BuildHasher for KeyedHash {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.key.0, self.key.1)
    }
}
