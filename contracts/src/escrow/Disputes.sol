// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Agreements} from "./Agreements.sol";
import {TermsLayout} from "./TermsLayout.sol";

/// @title Disputes
/// @notice Only if the terms name an arbiter, and never for more than the collateral and a bond.
abstract contract Disputes is Agreements {
    using TermsLayout for Terms;

    function dispute(Terms calldata terms) external {
        _onlyRequester(terms);
        _term(terms.arbiter() != address(0), "arbiter");
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _contestableFrom(id, a, terms.window());
        _lockBond(terms, id, a);
        a.status = Status.Disputed;
        a.deadline = uint40(block.timestamp + terms.arbiterWindow());
        _store(id, a);
        emit Disputed(id, a.deadline);
    }

    function rule(Terms calldata terms, uint96 slashed) external {
        if (msg.sender != terms.arbiter()) revert Escrow_NotParty(msg.sender);
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _only(id, a, Status.Disputed);
        _notAfter(a.deadline);
        _within(slashed, 0, terms.collateral());
        emit Ruled(id, slashed);
        if (slashed == 0) _bondToProvider(terms, a);
        _close(terms, id, a, slashed == 0 ? Status.Closed : Status.Slashed, slashed, 0);
    }
}
