//! The world's only source of randomness: SplitMix64 from its seed.

/// A small seeded generator (Steele, Lea, Flood 2014); not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    /// The generator that begins at `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// True with the given probability, 0 to 1.
    pub(crate) fn chance(&mut self, share: f64) -> bool {
        #[allow(clippy::cast_precision_loss)] // 53 bits fit exactly
        let unit = (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        unit < share
    }
}

/// SplitMix64's finaliser: spreads every input bit over all output bits.
pub(crate) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn equal_seeds_give_equal_numbers_and_others_differ() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            [random.next_u64(), random.next_u64()]
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn a_chance_comes_up_about_as_often_as_its_share() {
        let mut random = Random::new(1);
        let hits = (0..10_000).filter(|_| random.chance(0.05)).count();
        assert!((400..600).contains(&hits), "{hits} of 10000");
    }
}
