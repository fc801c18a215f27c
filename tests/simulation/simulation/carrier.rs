//! The network: calls travel to the service and answers back, each with its fate.

use shardkeeper_local::{Answer, LostCall, Request, ServiceError};

use super::{Parcel, Simulation};
use crate::faults::{self, Fate, Kind, iterator_of};
use crate::history::{Event, Ms};
use crate::network::{DatedAnswer, Outgoing};

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
                        let reply = reply.map(|answer| DatedAnswer { answer, at: self.now });
                        self.post(self.now + fate.back, Parcel::Reply { caller, reply });
                    }
                }
            }
        }
    }

    /// Carries a call out, or not, as its fate has it. Without a reply the connection stays silent.
    fn carry(&mut self, process: usize, request: &Request, fate: &Fate) -> Option<Result<Answer, LostCall>> {
        let (operation, name) = (request.operation().to_owned(), fate.name());
        self.history.note(Event::Call { process, operation, fate: name });
        match fate.kind {
            Some(Kind::LostCall | Kind::NoTables | Kind::NoStreams) => return Some(Err(LostCall)),
            Some(Kind::Silent) => return None,
            _ => {}
        }
        if let Some(error) = fate.refusal.clone().or_else(|| self.refusal(request)) {
            let body = error.to_json().to_string().into();
            return Some(Ok(Answer { status: error.status(), body, request_id: "refused".to_owned() }));
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
            Some(Kind::NoNextIterator) if !self.reads_open_shard(request) => Some(Ok(answer)),
            Some(kind) => {
                faults::distort(kind, self.now, request, &mut answer, &mut self.rng);
                Some(Ok(answer))
            }
            None => Some(Ok(answer)),
        }
    }

    /// The refusal that the state of the stream and its account calls for.
    fn refusal(&mut self, request: &Request) -> Option<ServiceError> {
        if request.operation() == "DescribeStream" {
            self.listings += 1;
            let second = self.now / 1_000;
            self.described = if self.described.0 == second { (second, self.described.1 + 1) } else { (second, 1) };
            let limit = self.scenario.field.describe_stream_per_second;
            if limit.is_some_and(|limit| self.described.1 > limit) {
                return Some(ServiceError::new("ThrottlingException", "Rate exceeded"));
            }
        }
        if self.service.is_purged(request) {
            return Some(ServiceError::new("ResourceNotFoundException", "no such stream"));
        }
        let died = self.dead_iterators?;
        let iterator = iterator_of(request).filter(|iterator| iterator.issued <= died)?;
        let codes = [
            "ValidationException",
            "InternalServerError",
            "ResourceNotFoundException",
            "AccessDeniedException",
            "ExpiredIteratorException",
        ];
        let code = codes[iterator.shard.bytes().map(usize::from).sum::<usize>() % codes.len()];
        Some(ServiceError::new(code, "an iterator of before"))
    }

    fn reads_open_shard(&self, request: &Request) -> bool {
        iterator_of(request).is_some_and(|iterator| self.service.is_open(&iterator.shard))
    }
}
