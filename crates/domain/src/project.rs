//! What is set for a whole project.

use chrono::{DateTime, Utc};

use crate::names::ProjectId;

/// What becomes of messages whose event type the project does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum UnknownEventTypes {
    /// They are accepted as any other.
    #[default]
    Accepted,
    /// They are refused.
    Refused,
}

impl UnknownEventTypes {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Accepted, Self::Refused];

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
        }
    }
}

/// The settings of a project. One that never set anything has those of [`ProjectSettings::initial`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectSettings {
    /// The project.
    pub project_id: ProjectId,
    /// What becomes of messages whose event type the project does not know.
    pub unknown_event_types: UnknownEventTypes,
    /// When they last changed; `None` when they never did.
    pub updated_at: Option<DateTime<Utc>>,
    /// 0 before the first change, one more with each.
    pub revision: u64,
}

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectChange {
    /// What becomes of messages whose event type the project does not know.
    UnknownEventTypes(UnknownEventTypes),
}

impl ProjectSettings {
    /// What holds before anything is set.
    pub fn initial(project_id: ProjectId) -> Self {
        Self {
            project_id,
            unknown_event_types: UnknownEventTypes::default(),
            updated_at: None,
            revision: 0,
        }
    }

    /// Decides what it takes to have `unknown_event_types` so; `None` when they are.
    pub fn decide(&self, unknown_event_types: UnknownEventTypes) -> Option<ProjectChange> {
        (self.unknown_event_types != unknown_event_types)
            .then_some(ProjectChange::UnknownEventTypes(unknown_event_types))
    }

    /// Folds `change`, made at `at`, into the settings.
    #[must_use]
    pub fn evolve(mut self, change: ProjectChange, at: DateTime<Utc>) -> Self {
        let ProjectChange::UnknownEventTypes(unknown_event_types) = change;
        self.unknown_event_types = unknown_event_types;
        self.updated_at = Some(at);
        self.revision += 1;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_holds_and_what_holds_already_is_no_change() {
        let at = DateTime::UNIX_EPOCH;
        let mut settings = ProjectSettings::initial("acme".parse().unwrap());
        assert_eq!(settings.unknown_event_types, UnknownEventTypes::Accepted);
        for (wanted, revision) in [
            (UnknownEventTypes::Accepted, 0),
            (UnknownEventTypes::Refused, 1),
            (UnknownEventTypes::Refused, 1),
            (UnknownEventTypes::Accepted, 2),
        ] {
            if let Some(change) = settings.decide(wanted) {
                settings = settings.evolve(change, at);
            }
            assert_eq!(
                (settings.unknown_event_types, settings.revision),
                (wanted, revision)
            );
        }
        assert_eq!(settings.updated_at, Some(at));
    }
}
