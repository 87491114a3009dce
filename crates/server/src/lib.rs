//! The cuitty-webhooks binary: roles, configuration, lifecycle.
