//! The network: calls travel to the service and answers back, each with its fate.

use shardkeeper_local::{Answer, LostCall, Request};

use super::{Parcel, Simulation};
use crate::faults::{self, Fate, Kind};
use crate::history::{Event, Ms};
use crate::network::{Outgoing, Reply};

impl Simulation {
    pub(super) fn send(&mut self, call: Outgoing) {
        let Outgoing { process, mut request, caller } = call;
        self.report.calls += 1;
        let fate = faults::draw(&self.windows, self.now, process, &request, &mut self.rng);
        if let Some(kind) = fate.kind {
            *self.report.faults.entry(format!("call: {kind:?}")).or_default() += 1;
        }
        if let Some(bug) = self.bug {
            bug.distort_request(&mut request);
        }
        let at = self.now + fate.there;
        self.post(at, Parcel::Call { process, request, fate, caller });
    }

    fn post(&mut self, at: Ms, parcel: Parcel) {
        self.sent += 1;
        self.parcels.insert((at, self.sent), parcel);
    }

    pub(super) fn deliver_parcels(&mut self) {
        while let Some(entry) = self.parcels.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            match entry.remove() {
                Parcel::Reply { caller, reply } => drop(caller.send(reply)),
                Parcel::Call { process, request, fate, caller } => {
                    if let Some(reply) = self.carry(process, &request, &fate) {
                        self.post(self.now + fate.back, Parcel::Reply { caller, reply });
                    }
                }
            }
        }
    }

    /// Carries a call out, or not, as its fate has it. Without a reply the connection stays silent.
    fn carry(&mut self, process: usize, request: &Request, fate: &Fate) -> Option<Reply> {
        let (operation, name) = (request.operation().to_owned(), fate.name());
        self.history.note(Event::Call { process, operation, fate: name });
        match fate.kind {
            Some(Kind::LostCall | Kind::NoTables | Kind::NoStreams) => return Some(Err(LostCall)),
            Some(Kind::Silent) => return None,
            Some(Kind::Throttled | Kind::ServerError) => {
                let error = fate.refusal.clone()?;
                let body = error.to_json().to_string().into();
                let request_id = "refused".to_owned();
                return Some(Ok(Answer { status: error.status(), body, request_id }));
            }
            _ => {}
        }
        let mut answer = match self.bug {
            Some(bug) => self.interference.carry(bug, self.now, process, request, &mut self.service),
            None => self.service.carry(process, request),
        };
        if let Some(bug) = self.bug {
            bug.distort_answer(request, &mut answer);
        }
        match fate.kind {
            Some(Kind::LostAnswer) => Some(Err(LostCall)),
            Some(Kind::SilentAfter | Kind::Late) => None,
            Some(kind) => {
                faults::distort(kind, self.now, request, &mut answer, &mut self.rng);
                Some(Ok(answer))
            }
            None => Some(Ok(answer)),
        }
    }
}
