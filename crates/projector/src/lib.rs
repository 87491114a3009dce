//! Folds the event log of Cuitty Webhooks into the delivery history.
