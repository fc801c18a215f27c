//! The weight of a lease: its part of a worker's load, by its throughput.

use super::LeaseToPlace;

/// The weight of the average lease. Weights are whole numbers, so that equal leases weigh exactly the same.
pub(super) const AVERAGE: u64 = 1000;

/// The cost of reading an empty shard, in KiB/s of a busy one. Beside it the small rates of an idle fleet make no
/// difference: there leases are counted.
const IDLE_COST: f64 = 32.0;
/// No lease weighs less than this part of the average: its shard may wake up.
const LEAST_PART: f64 = 0.1;
/// A rate above this one (KiB/s) is a mistake in the row, and not believed.
const HIGHEST_RATE: f64 = 1e9;

/// The weight of each lease, around [`AVERAGE`]. One whose rate is not known counts as the average of the known.
pub(super) fn weights(leases: &[LeaseToPlace]) -> Vec<u64> {
    let rate = |lease: &LeaseToPlace| lease.weight.filter(|rate| (0.0..=HIGHEST_RATE).contains(rate));
    let known = mean(leases.iter().filter_map(rate));
    let cost = |lease: &LeaseToPlace| rate(lease).unwrap_or(known).max(known * LEAST_PART) + IDLE_COST;
    let average = mean(leases.iter().map(cost));
    #[expect(clippy::cast_precision_loss, reason = "a small constant")]
    let scale = AVERAGE as f64 / average;
    leases.iter().map(|lease| whole(cost(lease) * scale)).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    if count > 0.0 { sum / count } else { 0.0 }
}

/// At least one, so that every lease counts.
fn whole(weight: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and within the highest rate")]
    let weight = weight.round().max(1.0) as u64;
    weight
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weigh(rates: &[Option<f64>]) -> Vec<u64> {
        let lease = |rate: &Option<f64>| LeaseToPlace {
            key: "s".into(),
            owner: None,
            moving: None,
            placed: false,
            weight: *rate,
            avoid: Vec::new(),
        };
        weights(&rates.iter().map(lease).collect::<Vec<_>>())
    }

    #[test]
    fn equal_and_unknown_rates_weigh_the_same() {
        assert_eq!(weigh(&[None; 3]), [AVERAGE; 3]);
        assert_eq!(weigh(&[Some(77.7); 3]), [AVERAGE; 3]);
        assert_eq!(weigh(&[Some(500.0), None, Some(f64::NAN), Some(-3.0)]), [AVERAGE; 4]);
        assert!(weigh(&[]).is_empty());
    }

    #[test]
    fn the_small_rates_of_an_idle_fleet_hardly_differ() {
        let weights = weigh(&[Some(0.0), Some(0.001), Some(0.9), Some(1e-12)]);
        assert!(weights.iter().all(|weight| weight.abs_diff(AVERAGE) < 30), "{weights:?}");
    }

    #[test]
    fn a_hot_lease_weighs_what_it_delivers_and_an_idle_one_a_part_of_the_average() {
        let weights = weigh(&[Some(10_000.0), Some(1_000.0), Some(0.0)]);
        assert!(weights[0] > 9 * weights[1] && weights[2] * 20 > AVERAGE, "{weights:?}");
    }
}
