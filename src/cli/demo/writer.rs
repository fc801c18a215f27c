//! The writer, which inserts, changes and removes phones at a steady rate.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::checker::DeliveryChecker;
use super::phone::{Event, PhoneKey};
use super::table::{self, Phone};
use shardkeeper_local::LocalService;

const COMPANIES: [&str; 32] = [
    "Alcatel", "Apple", "Asus", "BenQ", "Bosch", "Ericsson", "Gigaset", "Google", "HTC", "Honor", "Huawei", "Kyocera",
    "LG", "Lenovo", "Motorola", "NEC", "Nokia", "Nothing", "OnePlus", "Oppo", "Palm", "Pantech", "Philips", "Sagem",
    "Samsung", "Sharp", "Siemens", "Sony", "Toshiba", "Vivo", "Xiaomi", "ZTE",
];
const MODELS: [&str; 6] = ["Classic", "Fold", "Lite", "Max", "Mini", "Pro"];
const COLORS: [&str; 6] = ["black", "blue", "green", "red", "silver", "white"];

const TICK: Duration = Duration::from_millis(5);
/// The share of changes that are removals.
const REMOVALS: f64 = 0.2;

/// Writes `rate` records a second until `stop`.
///
/// # Errors
/// When the service refuses a write.
pub async fn write(
    service: LocalService,
    checker: DeliveryChecker,
    rate: NonZeroU32,
    stop: CancellationToken,
) -> Result<(), anyhow::Error> {
    let mut shop = Shop::new();
    let mut ticks = tokio::time::interval(TICK);
    // After a pause of the machine the writer resumes at the same rate, without catching up.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    let mut due = 0.0;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let seconds = last.elapsed().as_secs_f64().min(1.0);
        last = Instant::now();
        due += seconds * f64::from(rate.get());
        while due >= 1.0 && !stop.is_cancelled() {
            due -= 1.0;
            shop.change_something(&service, &checker)?;
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// The table's content, which only the writer changes.
struct Shop {
    phones: BTreeMap<PhoneKey, Phone>,
    rng: Rng,
}

impl Shop {
    fn new() -> Self {
        // The same phones each time.
        Self { phones: BTreeMap::new(), rng: Rng::with_seed(1973) }
    }

    fn change_something(&mut self, service: &LocalService, checker: &DeliveryChecker) -> Result<(), anyhow::Error> {
        let key = PhoneKey::new(self.one_of(&COMPANIES), self.one_of(&MODELS));
        let event = match self.phones.get(&key) {
            None => Event::Insert,
            Some(_) if self.rng.f64() < REMOVALS => Event::Remove,
            Some(_) => Event::Modify,
        };
        let phone = match self.phones.get(&key) {
            Some(phone) => self.changed(phone.clone(), event),
            None => Phone { price: self.number(99, 999), stock: self.number(1, 99), color: self.one_of(&COLORS) },
        };
        let version = checker.write(&key, event);
        table::write(service, &key, event, version, &phone)?;
        match event {
            Event::Remove => drop(self.phones.remove(&key)),
            Event::Insert | Event::Modify => drop(self.phones.insert(key, phone)),
        }
        Ok(())
    }

    /// The phone after a sale, a delivery or a new price.
    fn changed(&mut self, mut phone: Phone, event: Event) -> Phone {
        match self.rng.f64() {
            _ if event == Event::Remove => {}
            chance if chance < 0.6 && phone.stock > 0 => phone.stock -= 1,
            chance if chance < 0.8 => phone.stock += self.number(5, 50),
            _ => phone.price = self.number(99, 999),
        }
        phone
    }

    fn one_of(&mut self, choices: &[&'static str]) -> &'static str {
        let index = usize::try_from(self.rng.u64(..) % choices.len() as u64);
        choices[index.expect("below the length")]
    }

    fn number(&mut self, least: u64, most: u64) -> u64 {
        least + self.rng.u64(..) % (most - least + 1)
    }
}
