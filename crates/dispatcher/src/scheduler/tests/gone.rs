//! Endpoints that asked to be disabled.

use std::time::Duration;

use super::super::*;
use super::log::endpoint;
use super::model::limits;
use super::rig::Said::{End, Start};
use super::rig::{Rig, settings};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_endpoint_that_asked_to_be_disabled_is_left_alone_until_it_is() {
    let mut rig = Rig::new(limits());
    rig.open(0, settings(), None);
    rig.pull(0, 1..=3);
    assert_eq!(rig.said(), [Start(1, 1), Start(2, 1)]);
    rig.end(1, Sign::Gone);
    rig.end(2, Sign::Success);
    assert_eq!(rig.said(), [], "though the other one succeeded");
    let settings = LaneSettings {
        active: false,
        ..settings()
    };
    rig.tell(Event::Changed {
        endpoint_id: endpoint(0),
        settings,
        probe: true,
    });
    assert_eq!(rig.said(), [End(3)]);
}

#[test]
fn one_that_asked_to_be_disabled_and_is_changed_is_sent_to_again() {
    let mut rig = Rig::new(limits());
    rig.open(0, settings(), None);
    rig.pull(0, 1..=2);
    rig.end(1, Sign::Gone);
    rig.end(2, Sign::Gone);
    rig.pull(0, [3]);
    rig.said();
    rig.tell(Event::Changed {
        endpoint_id: endpoint(0),
        settings: settings(),
        probe: true,
    });
    assert_eq!(rig.said(), [Start(3, 1)]);
}

#[test]
fn one_that_asked_to_be_disabled_and_is_not_is_asked_again() {
    let mut rig = Rig::new(limits());
    rig.open(0, settings(), None);
    rig.lease(Duration::from_hours(1));
    rig.pull(0, [1]);
    rig.end(1, Sign::Gone);
    rig.pull(0, [2]);
    rig.said();
    let starts = |said: Vec<_>| said.contains(&Start(2, 1));
    assert!(!starts(rig.wait(29 * SECOND)));
    assert!(starts(rig.wait(2 * SECOND)));
}
