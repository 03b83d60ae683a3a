//! What is known of drivers beyond what they tell.

/// Whether attaching or detaching an XDP program in native mode restarts the link or its queues,
/// so that frames are lost for a moment (or, where the link is trained anew, for seconds). `None`
/// if it isn't known.
///
/// By what the drivers' `ndo_bpf` does in the kernel's tree on the way from no program to one: those
/// that say yes close and open the device or rebuild its rings (igc since 6.14 only stops them);
/// those that say no pause their polling at most. Generic mode never restarts anything by itself.
pub fn resets_link(driver: &str) -> Option<bool> {
    match driver {
        "ixgbe" | "ixgbevf" | "i40e" | "ice" | "igb" | "igc" | "mlx4_en" | "mlx5_core"
        | "bnxt_en" | "ena" | "gve" | "stmmac" | "nfp" => Some(true),
        "veth" | "virtio_net" | "tun" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::resets_link;

    #[test]
    fn what_is_not_known_is_not_guessed() {
        assert_eq!(resets_link("ice"), Some(true));
        assert_eq!(resets_link("veth"), Some(false));
        assert_eq!(resets_link("some_new_nic"), None);
        assert_eq!(resets_link(""), None);
    }
}
