//! `config show` and `config check`.

use clap::Subcommand;

use crate::config::{Config, DEFAULTS, Sources};
use crate::roles::Role;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Prints every key's value as TOML, and where it comes from; secrets are hidden
    Show,
    /// Prints the defaults with the description of every key
    Defaults,
    /// Lists everything that is wrong, the files that it names included; exits with 64 if anything is
    Check {
        /// For a process of these roles; some keys are needed by some roles only
        #[arg(long = "role", value_name = "ROLE", value_enum, value_delimiter = ',')]
        roles: Vec<Role>,
    },
}

pub(super) fn run(command: &ConfigCommand, sources: &Sources) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Show => {
            let (_, settings) = Config::load(sources, &[])?;
            super::print(settings.show().trim_end())
        }
        ConfigCommand::Defaults => super::print(DEFAULTS.trim_end()),
        ConfigCommand::Check { roles } => {
            let (config, settings) = Config::load(sources, roles)?;
            if roles.is_empty() {
                config.check_files(&settings)?;
            }
            config.check_connections(&settings, roles)?;
            for warning in config.warnings(roles) {
                super::print(&format!("warning: {warning}"))?;
            }
            super::print("the configuration is valid")
        }
    }
}
