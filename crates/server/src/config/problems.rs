use std::fmt;

use super::Origin;

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `section.key`, or the flag or file at fault.
    pub key: String,
    /// Where the value comes from.
    pub origin: Origin,
    /// What is wrong with it.
    pub message: String,
}

/// Everything that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// `Ok` when there are none.
    pub(super) fn none(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Self(problems))
        }
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is not valid:")?;
        for Problem { key, origin, message } in &self.0 {
            match origin {
                Origin::Default => write!(f, "\n  {key}: {message}")?,
                origin => write!(f, "\n  {key} ({origin}): {message}")?,
            }
        }
        Ok(())
    }
}
