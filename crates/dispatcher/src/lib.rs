//! The delivery engine of Cuitty Webhooks: log, HTTP attempt, log.
