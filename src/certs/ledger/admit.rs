//! Whether an order fits into the budgets.

use super::page::Set;
use super::{
    Ask, FAILURES, FRONT, HOUR, Ledger, OF_DOMAIN, ORDERS, ORDERS_SPAN, Spent, WEEK, duration,
    place, registered_domain, seconds,
};
use crate::certs::limit::Scope;

impl Ledger {
    /// Whether an order may be placed at `now`. An order that is taken up again has its place already.
    pub(in crate::certs) fn admits(
        &self,
        ask: &Ask<'_>,
        again: bool,
        now: i64,
    ) -> Result<(), Spent> {
        let empty = Set::default();
        let set = self.set(ask.key).unwrap_or(&empty);
        let runaway = |text: String, until| Err(Spent { text, until, runaway: true });
        if again {
            return Ok(());
        }
        let (span, gap) = (seconds(self.budget.span), seconds(self.budget.gap));
        let most = self.budget.issues.saturating_add(u32::from(ask.forced));
        let most = most.saturating_sub(u32::from(ask.early));
        let mut recent: Vec<i64> =
            set.issued.iter().copied().filter(|it| now - it < span).collect();
        recent.extend(set.open.map(|_| now));
        recent.sort_unstable();
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if recent.len() >= most {
            let oldest =
                recent.get(recent.len() - most).copied().unwrap_or(now - span + gap.max(60));
            let text = format!(
                "{} certificates for these names in {} were issued, and --acme-max-issues allows no more; \
                 `lockgate cert renew --force` may have one more",
                recent.len(),
                duration(span),
            );
            return runaway(text, oldest + span);
        }
        let last = set.issued.iter().copied().chain(set.open.map(|_| now)).max();
        if let Some(last) = last.filter(|it| now - it < gap && !ask.forced) {
            let text = format!(
                "the last certificate for these names is less than {} old (--acme-min-reissue)",
                duration(gap)
            );
            return runaway(text, last + gap);
        }
        if self.pages[place(ask.key)].is_full(ask.key) {
            let text = "the ledger has no room for more sets of names".to_owned();
            return Err(Spent { text, until: now + HOUR, runaway: false });
        }
        if self.budget.public { self.admits_in_public(ask, now) } else { Ok(()) }
    }

    /// The budgets by which a public CA's own are kept.
    fn admits_in_public(&self, ask: &Ask<'_>, now: i64) -> Result<(), Spent> {
        let spent = |text: String, until| Err(Spent { text, until, runaway: false });
        for name in ask.names {
            let failed = self.pages[place(name)].names.get(name).map_or(&[][..], |it| it);
            let recent: Vec<i64> = failed.iter().copied().filter(|it| now - it < HOUR).collect();
            if let Some(nth) = recent.len().checked_sub(FAILURES) {
                let text = format!("{name} failed to validate {} times in an hour", recent.len());
                return spent(text, recent[nth] + HOUR);
            }
            let domain = registered_domain(name);
            for scope in [Scope::Name(name.clone()), Scope::Domain(domain.to_owned())] {
                if let Some(until) = self.limited(&scope, now) {
                    return spent(format!("the CA asked to wait with {scope}"), until);
                }
            }
            if ask.first {
                let sets = self.pages[place(domain)].domains.get(domain).map_or(&[][..], |it| it);
                let recent: Vec<i64> = sets.iter().copied().filter(|it| now - it < WEEK).collect();
                if let Some(nth) = recent.len().checked_sub(OF_DOMAIN) {
                    let text =
                        format!("{} new certificates under {domain} in 7 days", recent.len());
                    return spent(text, recent[nth] + WEEK);
                }
            }
        }
        if let Some(until) = self.limited(&Scope::Account, now) {
            return spent("the CA asked to wait with the account".to_owned(), until);
        }
        if self.orders_left(now) == 0 {
            let oldest = self.pages[FRONT].orders.keys().find(|it| now - **it < ORDERS_SPAN);
            let until = oldest.map_or(now, |it| it + ORDERS_SPAN);
            return spent(format!("{ORDERS} orders in 3 hours"), until.max(now + 1));
        }
        Ok(())
    }
}
