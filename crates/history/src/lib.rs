//! The delivery-history store of Cuitty Webhooks on SQLite and PostgreSQL.
