//! Enums whose values have one spelling, used in files, commands, replies and messages alike.

/// Declares an enum together with the one word that stands for each value everywhere.
///
/// Gives `ALL`, `word()`, `Display`, `FromStr` (whose error names the right words) and serde.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$item_meta:meta])* $item:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(::serde::Serialize, ::serde::Deserialize)]
        pub enum $name { $($(#[$item_meta])* #[serde(rename = $word)] $item,)+ }

        impl $name {
            /// All values, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$item,)+];

            /// The word that stands for this value in files, commands and replies.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$item => $word,)+ }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.word())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|value| value.word() == text).ok_or_else(|| {
                    $crate::config::nearest::not_one_of(text, &[$($word,)+])
                })
            }
        }
    };
}

pub(crate) use words;
