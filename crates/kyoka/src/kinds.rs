//! A part of a recipe that has several kinds: an enum and its reader, from one table.

/// Declares the enum of a part's kinds; each kind has a name in recipes and a struct with its settings.
///
/// Serde's internal tags lose where a value stands and clash with the refusal of unknown keys, so the tag is taken out
/// first and the rest is read as the struct of its kind.
macro_rules! kinds {
    (
        $(#[$doc:meta])*
        pub enum $Name:ident {
            $($(#[$kind_doc:meta])* $kind:literal => $Variant:ident($Settings:ty),)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $Name {
            $($(#[$kind_doc])* $Variant($Settings),)+
        }

        impl $Name {
            /// The names of all kinds.
            pub const KINDS: &[&str] = &[$($kind),+];

            /// Its name in recipes.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$Variant(_) => $kind,)+
                }
            }

            /// Reads the settings of a kind.
            pub(crate) fn read(kind: &str, settings: toml::Table) -> Result<Self, $crate::reading::Fault> {
                match kind {
                    $($kind => $crate::reading::Fault::reading(settings.into()).map(Self::$Variant),)+
                    _ => Err($crate::reading::Fault::unknown_kind(kind, Self::KINDS)),
                }
            }

            /// Its settings, without the kind.
            pub(crate) fn to_table(&self) -> Result<toml::Table, toml::ser::Error> {
                match self {
                    $(Self::$Variant(settings) => toml::Table::try_from(settings),)+
                }
            }
        }
    };
}

pub(crate) use kinds;
