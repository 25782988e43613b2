// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";

import {Accounts} from "./escrow/Accounts.sol";
import {Closing} from "./escrow/Closing.sol";
import {Disputes} from "./escrow/Disputes.sol";
import {Liveness} from "./escrow/Liveness.sol";
import {Opening} from "./escrow/Opening.sol";
import {Preset} from "./escrow/Preset.sol";

/// @title Escrow
/// @notice IEscrow is the page to read. Each room below keeps one part of it:
///
///     Preset       limits, fixed at deployment          Units       what is sold, once
///     Ledger       free, stake, burned                  Agreements  one slot each; how all end
///     Accounts     deposit, withdraw, stake, thaw       Opening     open, cancel, extend
///     Signatures   EIP-712, who signed                  Payments    claim
///     Operators    allowances of hot keys               Closing     settle, close, finalize
///     TermsLayout  terms in calldata                    Liveness    challenge, answer, slash
///     Arithmetic   shares and accruals                  Disputes    the arbiter
///
/// Only deposit* and withdraw touch tokens; all else moves numbers. No owner, no pause, no upgrade.
contract Escrow is Accounts, Opening, Closing, Liveness, Disputes, Multicall {
    constructor(Limits memory limits_) Preset(limits_) {}
}
