//! What is chosen as if by chance, and chosen again where the same is wanted.

/// A number that follows from another one, and looks as if it did not.
pub fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^ (mixed >> 31)
}

/// One of these, by a number.
///
/// # Panics
/// When there are none.
pub fn pick<T: Copy>(from: &[T], number: u64) -> T {
    let count = u64::try_from(from.len()).expect("a count fits");
    from[usize::try_from(number % count).expect("an index fits")]
}
