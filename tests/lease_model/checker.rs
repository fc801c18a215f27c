//! An explicit-state model checker: breadth first, so that a fault comes with a shortest trace.
//!
//! Beside what must hold in each state and step it checks what must stay possible (from each state, without further
//! faults, a goal can be reached) and what must come about (no fair run without faults avoids a goal forever).

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// The properties to check.
pub trait Model {
    type State: Clone + Eq + Hash + Debug;
    type Action: Copy + Debug;

    fn initial(&self) -> Vec<Self::State>;

    /// All steps from a state. A step that breaks a rule gives the rule's name.
    fn steps(&self, state: &Self::State, steps: &mut Vec<Step<Self>>);

    /// The rule that the state breaks.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;

    /// Whether the action is a fault or a whim, which no progress may depend on.
    fn is_whim(&self, action: Self::Action) -> bool;

    /// The class of an action: a fair scheduler takes a class that stays enabled in the end.
    fn class(&self, action: Self::Action) -> u16;

    /// The states that must be reachable without whims from each state.
    fn goals(&self) -> Vec<Goal<Self::State>>;
}

pub type Step<M> = (<M as Model>::Action, Result<<M as Model>::State, &'static str>);

/// States that must be reachable.
pub struct Goal<S> {
    /// The fault when they are not.
    pub rule: &'static str,
    pub is_reached: fn(&S) -> bool,
    /// Whether each fair run must come there.
    pub under_fairness: bool,
}

/// The result of a check.
pub struct Report {
    pub states: usize,
    pub steps: usize,
    pub fault: Option<Fault>,
}

/// A rule that does not hold, and how that comes about.
#[derive(Debug)]
pub struct Fault {
    pub rule: &'static str,
    pub trace: Vec<String>,
}

/// Explores all states. Panics when there are more than `limit`.
pub fn check<M: Model>(model: &M, limit: usize) -> Report {
    let mut explored = Explored::<M>::default();
    for state in model.initial() {
        explored.intern(state, u32::MAX);
    }
    let (mut next, mut steps, mut taken) = (0, Vec::new(), 0);
    while next < explored.states.len() {
        assert!(explored.states.len() <= limit, "more than {limit} states");
        let state = explored.states[next].clone();
        let from = index(next);
        if let Some(rule) = model.broken(&state) {
            let fault = Fault { rule, trace: explored.trace(model, from) };
            return Report { states: explored.states.len(), steps: taken, fault: Some(fault) };
        }
        model.steps(&state, &mut steps);
        taken += steps.len();
        for (action, outcome) in steps.drain(..) {
            let to = match outcome {
                Ok(state) => explored.intern(state, from),
                Err(rule) => {
                    let mut trace = explored.trace(model, from);
                    trace.push(format!("{action:?}"));
                    let fault = Some(Fault { rule, trace });
                    return Report { states: explored.states.len(), steps: taken, fault };
                }
            };
            if !model.is_whim(action) {
                explored.edges.push((to, model.class(action)));
            }
        }
        explored.ends.push(explored.edges.len());
        next += 1;
    }
    let fault = model.goals().into_iter().find_map(|goal| explored.fault_of(model, &goal));
    Report { states: explored.states.len(), steps: taken, fault }
}

struct Explored<M: Model> {
    states: Vec<M::State>,
    /// From which state each was first reached.
    parents: Vec<u32>,
    by_hash: HashMap<u64, u32, BuildHasherDefault<Mix>>,
    /// The steps that are no whims, state by state; `ends` says where each state's end.
    edges: Vec<(u32, u16)>,
    ends: Vec<usize>,
}

impl<M: Model> Default for Explored<M> {
    fn default() -> Self {
        let (states, parents, by_hash) = (Vec::new(), Vec::new(), HashMap::default());
        Self { states, parents, by_hash, edges: Vec::new(), ends: Vec::new() }
    }
}

impl<M: Model> Explored<M> {
    fn intern(&mut self, state: M::State, parent: u32) -> u32 {
        let mut hasher = Mix::default();
        state.hash(&mut hasher);
        let mut hash = hasher.finish();
        while let Some(&known) = self.by_hash.get(&hash) {
            if self.states[known as usize] == state {
                return known;
            }
            hash = hash.wrapping_add(1);
        }
        let new = index(self.states.len());
        self.by_hash.insert(hash, new);
        self.states.push(state);
        self.parents.push(parent);
        new
    }

    fn edges(&self, state: usize) -> &[(u32, u16)] {
        let start = if state == 0 { 0 } else { self.ends[state - 1] };
        &self.edges[start..self.ends[state]]
    }

    fn trace(&self, model: &M, last: u32) -> Vec<String> {
        let (mut state, mut trace) = (last, vec![format!("{:?}", self.states[last as usize])]);
        while let Some(&parent) = self.parents.get(state as usize).filter(|parent| **parent != u32::MAX) {
            let mut steps = Vec::new();
            model.steps(&self.states[parent as usize], &mut steps);
            let target = &self.states[state as usize];
            let step = steps.iter().find(|(_, to)| to.as_ref() == Ok(target)).expect("a step led here");
            trace.push(format!("{:?}", step.0));
            state = parent;
        }
        trace.reverse();
        trace
    }

    fn fault_of(&self, model: &M, goal: &Goal<M::State>) -> Option<Fault> {
        let is_reached: Vec<bool> = self.states.iter().map(goal.is_reached).collect();
        let stuck = self.cannot_reach(&is_reached).or_else(|| {
            let is_left: Vec<bool> = is_reached;
            goal.under_fairness.then(|| self.fair_cycle_outside(&is_left)).flatten()
        })?;
        Some(Fault { rule: goal.rule, trace: self.trace(model, index(stuck)) })
    }

    /// The first state from which no goal can be reached.
    fn cannot_reach(&self, is_goal: &[bool]) -> Option<usize> {
        let mut starts = vec![0_usize; self.states.len() + 1];
        self.edges.iter().for_each(|(to, _)| starts[*to as usize + 1] += 1);
        for state in 0..self.states.len() {
            starts[state + 1] += starts[state];
        }
        let (mut sources, mut filled) = (vec![0_u32; self.edges.len()], starts.clone());
        for from in 0..self.states.len() {
            for (to, _) in self.edges(from) {
                sources[filled[*to as usize]] = index(from);
                filled[*to as usize] += 1;
            }
        }
        let mut reaches = is_goal.to_vec();
        let mut open: Vec<usize> = (0..self.states.len()).filter(|state| is_goal[*state]).collect();
        while let Some(state) = open.pop() {
            for source in &sources[starts[state]..starts[state + 1]] {
                if !std::mem::replace(&mut reaches[*source as usize], true) {
                    open.push(*source as usize);
                }
            }
        }
        reaches.iter().position(|reaches| !reaches)
    }

    /// A state of a set of states outside of the goal that a weakly fair run may go round in forever: no class of
    /// actions is enabled in all of them that always leads out of the set.
    fn fair_cycle_outside(&self, is_goal: &[bool]) -> Option<usize> {
        let component = self.components(is_goal);
        let mut members: HashMap<u32, Vec<usize>> = HashMap::new();
        for state in (0..self.states.len()).filter(|state| !is_goal[*state]) {
            members.entry(component[state]).or_default().push(state);
        }
        members.into_values().filter(|members| self.is_fair_cycle(members, &component)).map(|members| members[0]).min()
    }

    fn is_fair_cycle(&self, members: &[usize], component: &[u32]) -> bool {
        let home = component[members[0]];
        let mut inside = Vec::new();
        let mut always: Option<Vec<u16>> = None;
        for &state in members {
            let edges = self.edges(state);
            inside.extend(edges.iter().filter(|(to, _)| component[*to as usize] == home).map(|(_, class)| *class));
            let enabled = |class: &u16| edges.iter().any(|(_, other)| other == class);
            match &mut always {
                Some(always) => always.retain(enabled),
                None => always = Some(edges.iter().map(|(_, class)| *class).collect()),
            }
        }
        !inside.is_empty() && always.unwrap_or_default().iter().all(|class| inside.contains(class))
    }

    /// The strongly connected component of each state outside of the goal (Tarjan's algorithm, without recursion).
    fn components(&self, is_goal: &[bool]) -> Vec<u32> {
        const NONE: u32 = u32::MAX;
        let count = self.states.len();
        let (mut component, mut order, mut low) = (vec![NONE; count], vec![NONE; count], vec![NONE; count]);
        let (mut stack, mut visited, mut components) = (Vec::new(), 0, 0);
        for root in (0..count).filter(|state| !is_goal[*state]) {
            if order[root] != NONE {
                continue;
            }
            let mut calls = vec![(root, 0)];
            while let Some((state, edge)) = calls.pop() {
                if edge == 0 {
                    (order[state], low[state]) = (visited, visited);
                    visited += 1;
                    stack.push(state);
                }
                match self.edges(state).get(edge) {
                    Some((to, _)) => {
                        let to = *to as usize;
                        calls.push((state, edge + 1));
                        if is_goal[to] {
                        } else if order[to] == NONE {
                            calls.push((to, 0));
                        } else if component[to] == NONE {
                            low[state] = low[state].min(order[to]);
                        }
                    }
                    None => {
                        if low[state] == order[state] {
                            while let Some(member) = stack.pop() {
                                component[member] = components;
                                if member == state {
                                    break;
                                }
                            }
                            components += 1;
                        }
                        if let Some((parent, _)) = calls.last() {
                            low[*parent] = low[*parent].min(low[state]);
                        }
                    }
                }
            }
        }
        component
    }
}

fn index(state: usize) -> u32 {
    u32::try_from(state).expect("fewer states than that fit into memory")
}

/// A quick hash; equality decides.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        bytes.chunks(8).for_each(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        });
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
}
