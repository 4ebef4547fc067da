//! Of two that ask something of a host's clients the strictest holds.

use std::sync::Arc;

use crate::model::client_tls::{ClientTls, Guard, Subject, Verify};

impl Guard {
    /// Takes over what words without a Secret ask for, where that is stricter. `false`: there is nobody to ask
    /// for it, with `auth-tls-verify-client: off`.
    pub(super) fn tighten(&mut self, words: &ClientTls) -> bool {
        let verify = words.verify.unwrap_or(Verify::Off);
        match &mut self.demand {
            Some(demand) => {
                let demand = Arc::make_mut(demand);
                demand.verify = demand.verify.max(verify);
                demand.depth = words.depth.map_or(demand.depth, |it| it.min(demand.depth));
            }
            None if verify != Verify::Off => return false,
            None => {}
        }
        self.match_also(words.subject.as_slice());
        true
    }

    /// Makes it the strictest of both. `false`: they trust different authorities.
    pub(super) fn join(&mut self, other: &Self) -> bool {
        match (&mut self.demand, &other.demand) {
            (Some(own), Some(theirs)) => {
                if (&own.authorities, &own.revocations)
                    != (&theirs.authorities, &theirs.revocations)
                {
                    return false;
                }
                let own = Arc::make_mut(own);
                own.verify = own.verify.max(theirs.verify);
                own.depth = own.depth.min(theirs.depth);
            }
            (None, Some(theirs)) => self.demand = Some(theirs.clone()),
            (_, None) => {}
        }
        self.match_also(&other.subjects);
        true
    }

    fn match_also(&mut self, subjects: &[Subject]) {
        for subject in subjects {
            if !self.subjects.contains(subject) {
                self.subjects.push(subject.clone());
            }
        }
    }
}
