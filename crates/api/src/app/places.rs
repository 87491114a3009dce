//! Places for calls that stay open: so many in all, and fewer for one key that is bound to a project.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cuitty_webhooks_domain::ids::ApiKeyId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::Caller;

/// A project's key gets at most one in so many of the places, so that no project locks the others out. Keys that see every
/// project are the operator's own, and may take all.
const SHARE: usize = 4;

/// How many places each key has taken; none is kept of a key that has none.
type Taken = Arc<Mutex<HashMap<ApiKeyId, usize>>>;

/// The places of one kind of call.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    taken: Taken,
    total: usize,
}

/// A place; dropping it makes room for another.
#[derive(Debug)]
pub(super) struct TakenPlace {
    _all: OwnedSemaphorePermit,
    _share: Option<Share>,
}

/// A place's part of what its key may take.
#[derive(Debug)]
struct Share {
    taken: Taken,
    key: ApiKeyId,
}

impl Places {
    pub(super) fn new(total: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(total)),
            taken: Taken::default(),
            total,
        }
    }

    /// A place, or how many the caller may have when there is none.
    pub(super) fn take(&self, caller: &Caller) -> Result<TakenPlace, usize> {
        let share = match caller.key.filter(|_| caller.project.is_some()) {
            Some(key) => Some(self.share(key)?),
            None => None,
        };
        let all = Arc::clone(&self.all)
            .try_acquire_owned()
            .map_err(|_| self.total)?;
        Ok(TakenPlace {
            _all: all,
            _share: share,
        })
    }

    fn share(&self, key: ApiKeyId) -> Result<Share, usize> {
        let most = (self.total / SHARE).max(1);
        let mut taken = lock(&self.taken);
        let of_key = taken.entry(key).or_default();
        if *of_key >= most {
            return Err(most);
        }
        *of_key += 1;
        Ok(Share {
            taken: Arc::clone(&self.taken),
            key,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(of_key) = taken.get_mut(&self.key) {
            *of_key -= 1;
            if *of_key == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::testing::{self, now};

    fn caller(key: Option<u64>, project: Option<&str>) -> Caller {
        Caller {
            key: key.map(|seed| ApiKeyId::new(now(), &mut StdRng::seed_from_u64(seed))),
            ..testing::caller(project)
        }
    }

    #[test]
    fn a_projects_key_gets_a_quarter_and_leaves_the_rest_to_others() {
        let places = Places::new(8);
        let (one, other) = (caller(Some(1), Some("acme")), caller(Some(2), Some("acme")));
        let first = places.take(&one).unwrap();
        let _second = places.take(&one).unwrap();
        assert_eq!(places.take(&one).err(), Some(2));
        let _others = [places.take(&other).unwrap(), places.take(&other).unwrap()];
        drop(first);
        let _again = places.take(&one).unwrap();
        assert_eq!(places.take(&one).err(), Some(2));
    }

    #[test]
    fn a_key_for_every_project_may_take_all_places_and_no_more() {
        for key in [None, Some(1)] {
            let places = Places::new(3);
            let taken: Vec<_> = (0..3).map(|_| places.take(&caller(key, None)).unwrap()).collect();
            assert_eq!(places.take(&caller(key, None)).err(), Some(3));
            assert_eq!(places.take(&caller(Some(2), Some("acme"))).err(), Some(3));
            drop(taken);
            assert!(places.take(&caller(Some(2), Some("acme"))).is_ok());
        }
    }

    #[test]
    fn a_key_gets_one_of_few_places_and_nothing_is_kept_of_it() {
        let places = Places::new(1);
        let one = caller(Some(1), Some("acme"));
        drop(places.take(&one).unwrap());
        assert!(lock(&places.taken).is_empty());
        let _again = places.take(&one).unwrap();
    }
}
